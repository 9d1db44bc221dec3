//! What the registry says that a name means.

use anyhow::{Result, bail};
use hyper::Method;
use ringback_protocol::{Code, PeerId};
use serde::Deserialize;

use super::{Connection, Registry};

impl Registry {
    /// The device of this name, if there is one.
    pub(crate) async fn alias(&self, name: &str) -> Result<Option<PeerId>> {
        #[derive(Deserialize)]
        struct Alias {
            device: PeerId,
        }
        let mut connection = Connection::open(self).await?;
        let answer = connection
            .json::<Alias>(Method::GET, &format!("/v1/aliases/{name}"), None)
            .await?;
        connection.keep(self);
        match answer {
            Ok(alias) => Ok(Some(alias.device)),
            Err(problem) if problem.code == Code::UnknownAlias => Ok(None),
            Err(problem) => bail!(problem.refusal()),
        }
    }
}

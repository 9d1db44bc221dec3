//! How a transfer ends: what is told of one that is done, and of one that would replace a file.

use std::ffi::{OsStr, OsString};

use serde::{Serialize, Serializer};

use crate::failure::{Exit, Failure};

/// What is told at the end.
#[derive(Debug, Serialize)]
pub(super) struct Done {
    #[serde(serialize_with = "as_text")]
    pub(super) path: OsString,
    pub(super) bytes: u64,
    /// Of these, there already from an earlier try.
    pub(super) resumed_bytes: u64,
    pub(super) sha256: String,
    pub(super) seconds: f64,
    /// Standard output has the file, and nothing else.
    #[serde(skip)]
    pub(super) in_output: bool,
}

/// JSON knows text only.
fn as_text<S: Serializer>(path: &OsString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// Something else has the name already.
pub(super) fn replaces(path: &OsStr) -> Failure {
    let what = format!(
        "{} is there already and is another file; --overwrite replaces it",
        path.display()
    );
    Failure::new(Exit::Usage, what)
}

//! A registry as JavaScript sees it.

use serde::Deserialize;
use wasm_bindgen::prelude::*;

use super::link::Link;
use super::{cancellable, from_js, listener, signal, thrown, to_js};
use crate::{CallOptions, Proof};

/// A registry at its origin.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Registry {
    inner: crate::Registry,
}

/// `CallOptions` of `types.d.ts`, but for its functions.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Given {
    device: String,
    password: Option<String>,
    service: Option<String>,
    remember: Option<bool>,
    accept_new_key: Option<bool>,
}

#[wasm_bindgen]
impl Registry {
    /// Asks the registry at `address` (as `https://registry.example`) what it offers.
    pub async fn open(address: String) -> Result<Registry, JsValue> {
        match crate::Registry::open(&address).await {
            Ok(inner) => Ok(Self { inner }),
            Err(error) => Err(thrown(&error)),
        }
    }

    /// The registry's origin.
    #[wasm_bindgen(getter)]
    pub fn origin(&self) -> String {
        self.inner.origin().to_owned()
    }

    /// What the registry says of itself.
    #[wasm_bindgen(getter, unchecked_return_type = "RegistryInfo")]
    pub fn info(&self) -> JsValue {
        to_js(self.inner.info())
    }

    /// The ID of the device that a name leads to: an ID stands for itself, then this browser's
    /// contacts count, then the registry's names.
    pub async fn resolve(&self, name: String) -> Result<String, JsValue> {
        let device = self.inner.resolve(&name).await;
        device
            .map(|device| device.to_string())
            .map_err(|error| thrown(&error))
    }

    /// Calls a device.
    pub async fn call(
        &self,
        #[wasm_bindgen(unchecked_param_type = "CallOptions")] options: JsValue,
    ) -> Result<Link, JsValue> {
        let (listener, signal) = (listener(&options), signal(&options));
        let given: Given = from_js(options)?;
        let options = CallOptions {
            device: given.device,
            proof: given.password.map_or(Proof::Remembered, Proof::Password),
            service: given
                .service
                .unwrap_or_else(|| ringback_protocol::name::NO_SERVICE.to_owned()),
            remember: given.remember.unwrap_or(false),
            accept_new_key: given.accept_new_key.unwrap_or(false),
        };
        let calling = self.inner.call(options, listener);
        cancellable(calling, signal).await.map(Link::new)
    }
}

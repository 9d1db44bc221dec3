//! What stands beside calls: identity, contacts, and links to devices.

use serde::Deserialize;
use wasm_bindgen::prelude::*;

use super::{from_js, thrown, to_js};
use crate::registry::parse_id;
use crate::{Contact, DeviceLink};

/// The key of this browser profile, on this origin.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Identity {
    inner: crate::Identity,
}

#[wasm_bindgen]
impl Identity {
    /// The stored identity, or a new one that is stored.
    pub async fn load() -> Result<Identity, JsValue> {
        match crate::Identity::load().await {
            Ok(inner) => Ok(Self { inner }),
            Err(error) => Err(thrown(&error)),
        }
    }

    /// Forgets it: devices that remember this browser no longer know it.
    pub async fn forget() -> Result<(), JsValue> {
        let forgotten = crate::Identity::forget().await;
        forgotten.map_err(|error| thrown(&error))
    }

    /// The ID by which devices remember this browser.
    #[wasm_bindgen(getter)]
    pub fn id(&self) -> String {
        self.inner.id().to_string()
    }

    /// False where the browser stores nothing, as in private windows: the identity, and with it being
    /// remembered, is gone with the page.
    #[wasm_bindgen(getter)]
    pub fn persistent(&self) -> bool {
        self.inner.is_persistent()
    }
}

/// Devices that this browser knows. A call that succeeds writes its device down.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Contacts;

#[wasm_bindgen]
impl Contacts {
    /// All, the one called last first.
    #[wasm_bindgen(unchecked_return_type = "Contact[]")]
    pub async fn list() -> Result<JsValue, JsValue> {
        let contacts = crate::Contacts::list().await;
        contacts
            .map(|contacts| to_js(&contacts))
            .map_err(|error| thrown(&error))
    }

    /// Adds or replaces the contact with this ID.
    pub async fn put(
        #[wasm_bindgen(unchecked_param_type = "Contact")] contact: JsValue,
    ) -> Result<(), JsValue> {
        let contact: Contact = from_js(contact)?;
        let put = crate::Contacts::put(&contact).await;
        put.map_err(|error| thrown(&error))
    }

    /// Forgets the contact with this ID.
    pub async fn remove(id: String) -> Result<(), JsValue> {
        let id = parse_id(&id).map_err(|error| thrown(&error))?;
        let removed = crate::Contacts::remove(&id).await;
        removed.map_err(|error| thrown(&error))
    }
}

/// `DeviceLink` of `types.d.ts`.
#[derive(serde::Serialize, Deserialize)]
struct Parts {
    registry: String,
    device: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    password: Option<String>,
}

/// Checks a device ID, and gives it in its canonical form.
#[wasm_bindgen(js_name = parseDeviceId)]
pub fn parse_device_id(text: &str) -> Result<String, JsValue> {
    let id = parse_id(text.trim());
    id.map(|id| id.to_string()).map_err(|error| thrown(&error))
}

/// Takes a link to a device apart: `https://REGISTRY/d/rb1…#p=PASSWORD`.
#[wasm_bindgen(js_name = parseDeviceLink, unchecked_return_type = "DeviceLink")]
pub fn parse_device_link(link: &str) -> Result<JsValue, JsValue> {
    let link = DeviceLink::parse(link).map_err(|error| thrown(&error))?;
    Ok(to_js(&Parts {
        registry: link.registry,
        device: link.device.to_string(),
        password: link.password,
    }))
}

/// Writes a link to a device. A password in it is sent to no server, but whoever sees the link has it.
#[wasm_bindgen(js_name = formatDeviceLink)]
pub fn format_device_link(
    #[wasm_bindgen(unchecked_param_type = "DeviceLink")] link: JsValue,
) -> Result<String, JsValue> {
    let parts: Parts = from_js(link)?;
    let link = DeviceLink {
        registry: crate::origin::parse(&parts.registry).map_err(|error| thrown(&error))?,
        device: parse_id(&parts.device).map_err(|error| thrown(&error))?,
        password: parts.password,
    };
    Ok(link.to_string())
}

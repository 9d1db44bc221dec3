//! The database of this origin in the browser: `ringback`, with one store for the identity and one
//! for contacts. Two pages may use it at a time; each access is a transaction.

use futures_channel::oneshot;
use js_sys::Reflect;
use wasm_bindgen::JsCast as _;
use wasm_bindgen::prelude::*;
use web_sys::{IdbDatabase, IdbFactory, IdbObjectStore, IdbRequest, IdbTransactionMode};

const DATABASE: &str = "ringback";
const VERSION: u32 = 1;
pub(crate) const IDENTITY: &str = "identity";
pub(crate) const CONTACTS: &str = "contacts";

/// An open database; closed on drop.
pub(crate) struct Store {
    database: IdbDatabase,
}

impl Store {
    /// An error where the browser has no database for this page.
    pub(crate) async fn open() -> Result<Self, JsValue> {
        let factory = Reflect::get(&js_sys::global(), &"indexedDB".into())?;
        let factory: IdbFactory = factory
            .dyn_into()
            .map_err(|_| JsValue::from("there is no indexedDB"))?;
        let request = factory.open_with_u32(DATABASE, VERSION)?;
        let asked = request.clone();
        let upgrade = Closure::once(move || {
            let Ok(database) = asked.result() else { return };
            let database: IdbDatabase = database.unchecked_into();
            for store in [IDENTITY, CONTACTS] {
                // A failure aborts the upgrade, and opening with it.
                let _ = database.create_object_store(store);
            }
        });
        request.set_onupgradeneeded(Some(upgrade.as_ref().unchecked_ref()));
        let _asking = Asking(&request);
        let database: IdbDatabase = finished(&request).await?.unchecked_into();
        Ok(Self { database })
    }

    pub(crate) async fn find(&self, store: &str, key: &str) -> Result<Option<JsValue>, JsValue> {
        let request = self.read(store)?.get(&key.into())?;
        let value = finished(&request).await?;
        Ok((!value.is_undefined()).then_some(value))
    }

    pub(crate) async fn all(&self, store: &str) -> Result<js_sys::Array, JsValue> {
        let request = self.read(store)?.get_all()?;
        Ok(finished(&request).await?.unchecked_into())
    }

    /// An error if there is a value of this key.
    pub(crate) async fn add(&self, store: &str, key: &str, value: &JsValue) -> Result<(), JsValue> {
        let request = self.write(store)?.add_with_key(value, &key.into())?;
        finished(&request).await.map(drop)
    }

    pub(crate) async fn put(&self, store: &str, key: &str, value: &JsValue) -> Result<(), JsValue> {
        let request = self.write(store)?.put_with_key(value, &key.into())?;
        finished(&request).await.map(drop)
    }

    pub(crate) async fn remove(&self, store: &str, key: &str) -> Result<(), JsValue> {
        let request = self.write(store)?.delete(&key.into())?;
        finished(&request).await.map(drop)
    }

    fn read(&self, store: &str) -> Result<IdbObjectStore, JsValue> {
        let transaction = self
            .database
            .transaction_with_str_and_mode(store, IdbTransactionMode::Readonly)?;
        transaction.object_store(store)
    }

    fn write(&self, store: &str) -> Result<IdbObjectStore, JsValue> {
        let transaction = self
            .database
            .transaction_with_str_and_mode(store, IdbTransactionMode::Readwrite)?;
        transaction.object_store(store)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.database.close();
    }
}

async fn finished(request: &IdbRequest) -> Result<JsValue, JsValue> {
    let (sender, done) = oneshot::channel();
    let (good, bad) = (request.clone(), request.clone());
    let sender = std::rc::Rc::new(std::cell::Cell::new(Some(sender)));
    let other = sender.clone();
    let on_success = Closure::once(move || tell(&sender, good.result()));
    let on_error = Closure::once(move |event: web_sys::Event| {
        // Handled here: it shall not end in the page's console as well.
        event.prevent_default();
        let error = bad.error().ok().flatten();
        tell(&other, Err(error.map_or(JsValue::UNDEFINED, Into::into)));
    });
    request.set_onsuccess(Some(on_success.as_ref().unchecked_ref()));
    request.set_onerror(Some(on_error.as_ref().unchecked_ref()));
    let _handlers = Handlers(request);
    done.await.unwrap_or(Err(JsValue::UNDEFINED))
}

/// Takes the handlers away before they are dropped, also when nobody waits for the end any more: the
/// browser would call what is not there.
struct Handlers<'a>(&'a IdbRequest);

impl Drop for Handlers<'_> {
    fn drop(&mut self) {
        self.0.set_onsuccess(None);
        self.0.set_onerror(None);
    }
}

/// The same for the opening of the database.
struct Asking<'a>(&'a web_sys::IdbOpenDbRequest);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.set_onupgradeneeded(None);
    }
}

type Waiting = std::rc::Rc<std::cell::Cell<Option<oneshot::Sender<Result<JsValue, JsValue>>>>>;

fn tell(waiting: &Waiting, result: Result<JsValue, JsValue>) {
    if let Some(sender) = waiting.take() {
        // Nobody may wait any more.
        let _ = sender.send(result);
    }
}

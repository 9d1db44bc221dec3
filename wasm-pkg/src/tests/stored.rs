//! Identity and contacts in the browser's database.

use js_sys::{Reflect, Uint8Array};
use ringback_protocol::{PeerId, SecretKey};
use wasm_bindgen::{JsCast as _, JsValue};
use wasm_bindgen_futures::JsFuture;
use wasm_bindgen_test::wasm_bindgen_test;
use web_sys::CryptoKey;

use crate::object::member;
use crate::store::{IDENTITY, Store};
use crate::{Contact, Contacts, Identity};

fn device(seed: u8) -> PeerId {
    SecretKey::from_seed(&[seed; 32]).id()
}

fn contact(seed: u8, name: &str, last_used_ms: f64) -> Contact {
    Contact {
        id: device(seed),
        name: Some(name.to_owned()),
        told_name: None,
        registry: "https://registry.example".to_owned(),
        remembered: seed.is_multiple_of(2),
        last_used_ms,
    }
}

#[wasm_bindgen_test]
async fn the_identity_stays_until_it_is_forgotten() {
    Identity::forget().await.unwrap();
    let first = Identity::load().await.unwrap();
    assert!(first.is_persistent());
    // As after the page was loaded again: from the database.
    Identity::unload();
    let again = Identity::load().await.unwrap();
    assert_eq!(again.id(), first.id());

    Identity::forget().await.unwrap();
    let other = Identity::load().await.unwrap();
    assert_ne!(other.id(), first.id());
}

#[wasm_bindgen_test]
async fn the_database_does_not_give_the_key_out() {
    Identity::forget().await.unwrap();
    let identity = Identity::load().await.unwrap();
    let store = Store::open().await.unwrap();
    let record = store.find(IDENTITY, "seed").await.unwrap().unwrap();
    let key: CryptoKey = member(&record, "key").dyn_into().unwrap();
    assert!(!key.extractable());
    let subtle = crate::identity::subtle().unwrap();
    let exported = JsFuture::from(subtle.export_key("raw", &key).unwrap()).await;
    assert!(exported.is_err(), "the key was exported");
    let sealed = Uint8Array::new(&member(&record, "sealed")).to_vec();
    assert_eq!(sealed.len(), 32 + 16);

    // What was altered does not open, and is replaced.
    let altered = Uint8Array::from(sealed.iter().map(|b| b ^ 1).collect::<Vec<_>>().as_slice());
    Reflect::set(&record, &"sealed".into(), &altered).unwrap();
    store.put(IDENTITY, "seed", &record).await.unwrap();
    Identity::unload();
    assert_ne!(Identity::load().await.unwrap().id(), identity.id());
}

#[wasm_bindgen_test]
async fn without_a_database_the_identity_is_for_this_session() {
    let global = js_sys::global();
    let factory = member(&global, "indexedDB");
    let hide = |value: &JsValue| {
        let descriptor = js_sys::Object::new();
        Reflect::set(&descriptor, &"value".into(), value).unwrap();
        Reflect::set(&descriptor, &"configurable".into(), &true.into()).unwrap();
        js_sys::Object::define_property(&global, &"indexedDB".into(), &descriptor);
    };
    hide(&JsValue::UNDEFINED);
    Identity::unload();
    let identity = Identity::load().await.unwrap();
    let same = Identity::load().await.unwrap();
    Contacts::put(&contact(1, "nas", 1.0)).await.unwrap();
    let contacts = Contacts::list().await.unwrap();
    hide(&factory);
    Identity::unload();
    assert!(!identity.is_persistent());
    assert_eq!(same.id(), identity.id());
    assert_eq!(contacts, [contact(1, "nas", 1.0)]);
    let stored = Contacts::by_id(&device(1)).await.unwrap();
    assert_eq!(stored, None, "nothing was written");
    assert_ne!(Identity::load().await.unwrap().id(), identity.id());
}

#[wasm_bindgen_test]
async fn contacts_are_found_by_name_at_their_registry_and_by_key() {
    for known in Contacts::list().await.unwrap() {
        Contacts::remove(&known.id).await.unwrap();
    }
    let (nas, pi) = (contact(2, "nas", 1.0), contact(3, "pi", 2.0));
    Contacts::put(&nas).await.unwrap();
    Contacts::put(&pi).await.unwrap();
    assert_eq!(Contacts::list().await.unwrap(), [pi.clone(), nas.clone()]);
    let found = Contacts::by_name("nas", &nas.registry).await.unwrap();
    assert_eq!(found, Some(nas.clone()));
    let elsewhere = Contacts::by_name("nas", "https://other.example").await;
    assert_eq!(elsewhere.unwrap(), None);
    assert_eq!(Contacts::by_id(&pi.id).await.unwrap(), Some(pi.clone()));

    // The name goes to whom it was given last.
    let heir = contact(4, "nas", 3.0);
    Contacts::put(&heir).await.unwrap();
    let found = Contacts::by_name("nas", &nas.registry).await.unwrap();
    assert_eq!(found, Some(heir));
    let nameless = Contacts::by_id(&nas.id).await.unwrap().unwrap();
    assert_eq!((nameless.name, nameless.remembered), (None, true));

    // What a device calls itself takes the name from nobody, and leads nowhere.
    Contacts::told(&pi.id, "nas".to_owned()).await.unwrap();
    let found = Contacts::by_name("nas", &nas.registry).await.unwrap();
    assert_eq!(found.map(|contact| contact.id), Some(device(4)));
    let told = Contacts::by_id(&pi.id).await.unwrap().unwrap();
    assert_eq!(told.told_name.as_deref(), Some("nas"));
    assert_eq!(told.name.as_deref(), Some("pi"));
    Contacts::told(&device(5), "nas".to_owned()).await.unwrap();
    assert_eq!(
        Contacts::by_id(&device(5)).await.unwrap(),
        None,
        "forgotten stays forgotten"
    );

    Contacts::remove(&pi.id).await.unwrap();
    assert_eq!(Contacts::by_id(&pi.id).await.unwrap(), None);
}

//! This browser's key.
//!
//! WebCrypto can not do the key agreement of an envelope with an Ed25519 key, so the seed has to be
//! in this page's memory while it calls. At rest it is encrypted by an AES-GCM key that WebCrypto
//! holds and does not give out: a copy of the database is worth nothing without the browser.

use std::cell::RefCell;
use std::rc::Rc;

use js_sys::{Array, Object, Promise, Reflect, Uint8Array};
use ringback_protocol::{PeerId, SecretKey};
use wasm_bindgen::JsCast as _;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{Crypto, CryptoKey, SubtleCrypto};
use zeroize::Zeroizing;

use crate::CallError;
use crate::error::UNSUPPORTED;
use crate::store::{self, Store};

/// The one record of the store.
const RECORD: &str = "seed";
const ALGORITHM: &str = "AES-GCM";
const KEY_BITS: u32 = 256;
const NONCE: usize = 12;

thread_local! {
    /// All calls of a page are made by one identity, stored or not.
    static LOADED: RefCell<Option<Identity>> = const { RefCell::new(None) };
}

/// The browser profile's Ed25519 key, on this origin. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Identity {
    key: Rc<SecretKey>,
    persistent: bool,
}

impl Identity {
    /// The stored identity, or a new one that is stored. Where the browser stores nothing (private
    /// mode, storage refused) it is one for this session only: see [`Self::is_persistent`].
    pub async fn load() -> Result<Self, CallError> {
        if let Some(identity) = loaded() {
            return Ok(identity);
        }
        let (seed, persistent) = match stored_or_new().await {
            Ok(seed) => (seed, true),
            Err(_) => (random_seed()?, false),
        };
        // Another task may have been quicker.
        let identity = loaded().unwrap_or_else(|| Self {
            key: Rc::new(SecretKey::from_seed(&seed)),
            persistent,
        });
        LOADED.set(Some(identity.clone()));
        Ok(identity)
    }

    /// The caller's ID, by which devices remember this browser.
    pub fn id(&self) -> PeerId {
        self.key.id()
    }

    /// False: the identity is gone with the page, and so is being remembered by devices.
    pub fn is_persistent(&self) -> bool {
        self.persistent
    }

    /// Forgets the stored identity: devices that remember it no longer know this browser. Links that
    /// are open stay.
    pub async fn forget() -> Result<(), CallError> {
        LOADED.set(None);
        let Ok(store) = Store::open().await else {
            return Ok(());
        };
        store
            .remove(store::IDENTITY, RECORD)
            .await
            .map_err(|_| CallError::new(UNSUPPORTED, "the browser did not delete its key"))
    }

    /// As if the page was loaded anew.
    #[cfg(all(test, target_arch = "wasm32"))]
    pub(crate) fn unload() {
        LOADED.set(None);
    }

    pub(crate) fn key(&self) -> &SecretKey {
        &self.key
    }
}

fn loaded() -> Option<Identity> {
    LOADED.with_borrow(Clone::clone)
}

fn random_seed() -> Result<Zeroizing<[u8; 32]>, CallError> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut_slice())
        .map_err(|_| CallError::new(UNSUPPORTED, "this browser gives no random numbers"))?;
    Ok(seed)
}

async fn stored_or_new() -> Result<Zeroizing<[u8; 32]>, JsValue> {
    let subtle = subtle()?;
    let store = Store::open().await?;
    if let Some(record) = store.find(store::IDENTITY, RECORD).await? {
        if let Ok(seed) = open(&subtle, &record).await {
            return Ok(seed);
        }
        // Damaged, and nobody else can read it.
        store.remove(store::IDENTITY, RECORD).await?;
    }
    let seed = random_seed().map_err(|error| JsValue::from(error.message))?;
    let record = seal(&subtle, &seed).await?;
    match store.add(store::IDENTITY, RECORD, &record).await {
        Ok(()) => Ok(seed),
        // Another page of this origin was quicker.
        Err(error) => match store.find(store::IDENTITY, RECORD).await? {
            Some(record) => open(&subtle, &record).await,
            None => Err(error),
        },
    }
}

pub(crate) fn subtle() -> Result<SubtleCrypto, JsValue> {
    let crypto = Reflect::get(&js_sys::global(), &"crypto".into())?;
    let crypto: Crypto = crypto.dyn_into()?;
    let subtle = crypto.subtle();
    // Plain http: there is none.
    if subtle.is_undefined() {
        return Err("there is no crypto.subtle".into());
    }
    Ok(subtle)
}

/// `{key, nonce, sealed}`, the key being one that the database can hold and nobody can read.
async fn seal(subtle: &SubtleCrypto, seed: &[u8; 32]) -> Result<JsValue, JsValue> {
    let algorithm = object(&[("name", ALGORITHM.into()), ("length", KEY_BITS.into())])?;
    let usages = Array::of2(&"encrypt".into(), &"decrypt".into());
    let extractable = false;
    let key = done(subtle.generate_key_with_object(&algorithm, extractable, &usages)?).await?;
    let key: CryptoKey = key.dyn_into()?;
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).map_err(|_| JsValue::from("no random numbers"))?;
    let nonce = Uint8Array::from(nonce.as_slice());
    let plain = Uint8Array::from(seed.as_slice());
    let sealed = subtle.encrypt_with_object_and_js_u8_array(&parameters(&nonce)?, &key, &plain)?;
    let sealed = Uint8Array::new(&done(sealed).await?);
    plain.fill(0, 0, plain.length());
    object(&[
        ("key", key.into()),
        ("nonce", nonce.into()),
        ("sealed", sealed.into()),
    ])
    .map(Into::into)
}

async fn open(subtle: &SubtleCrypto, record: &JsValue) -> Result<Zeroizing<[u8; 32]>, JsValue> {
    let member = |name: &str| Reflect::get(record, &name.into());
    let key: CryptoKey = member("key")?.dyn_into()?;
    let nonce: Uint8Array = member("nonce")?.dyn_into()?;
    let sealed: Uint8Array = member("sealed")?.dyn_into()?;
    let plain = subtle.decrypt_with_object_and_js_u8_array(&parameters(&nonce)?, &key, &sealed)?;
    let plain = Uint8Array::new(&done(plain).await?);
    if plain.length() != 32 {
        return Err("not a seed".into());
    }
    let mut seed = Zeroizing::new([0; 32]);
    plain.copy_to(seed.as_mut_slice());
    plain.fill(0, 0, plain.length());
    Ok(seed)
}

fn parameters(nonce: &Uint8Array) -> Result<Object, JsValue> {
    object(&[("name", ALGORITHM.into()), ("iv", nonce.into())])
}

fn object(members: &[(&str, JsValue)]) -> Result<Object, JsValue> {
    let object = Object::new();
    for (name, value) in members {
        Reflect::set(&object, &(*name).into(), value)?;
    }
    Ok(object)
}

async fn done(promise: Promise) -> Result<JsValue, JsValue> {
    JsFuture::from(promise).await
}

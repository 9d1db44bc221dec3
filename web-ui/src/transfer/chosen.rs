//! A folder of this computer that the person has chosen for downloads. Nothing in it is replaced: the
//! same file is left as it is, and another one of the same name stays beside the new one.

use js_sys::{Function, Object, Promise, Reflect, Uint8Array};
use sha2::{Digest, Sha256};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{
    Blob, DomException, FileSystemDirectoryHandle, FileSystemFileHandle, FileSystemGetFileOptions,
    FileSystemWritableFileStream,
};

use crate::{browser, plain, sentence::Failure};

#[derive(Clone)]
pub(crate) struct Folder(FileSystemDirectoryHandle);

/// What the person has said.
pub(crate) enum Choice {
    Folder(Folder),
    /// None after all.
    Nothing,
    /// The browser lets no page write into a folder; it saves each file by itself.
    Browser,
}

impl Folder {
    /// Has the browser ask for a folder. Called while a click is handled.
    pub(crate) async fn choose() -> Choice {
        let picker = Reflect::get(&browser::window(), &"showDirectoryPicker".into())
            .ok()
            .and_then(|picker| picker.dyn_into::<Function>().ok());
        let Some(picker) = picker else {
            return Choice::Browser;
        };
        let options = Object::new();
        let _ = Reflect::set(&options, &"mode".into(), &"readwrite".into());
        let _ = Reflect::set(&options, &"id".into(), &"downloads".into());
        let asked = picker
            .call1(&browser::window(), &options)
            .and_then(JsCast::dyn_into::<Promise>);
        let chosen = match asked {
            Ok(promise) => JsFuture::from(promise).await,
            Err(error) => Err(error),
        };
        match chosen {
            Ok(handle) => Choice::Folder(Self(handle.unchecked_into())),
            Err(error) if is(&error, "AbortError") => Choice::Nothing,
            Err(_) => Choice::Browser,
        }
    }

    /// Writes `file` under `name`, or the first free name like it; gives that name.
    pub(super) async fn save(
        &self,
        file: &Blob,
        sha256: [u8; 32],
        name: &str,
    ) -> Result<String, Failure> {
        let name = plain::file_name(name);
        for number in 1.. {
            let name = match number {
                1 => name.clone(),
                number => plain::numbered(&name, number),
            };
            match self.there(&name).await {
                Ok(Some(there)) if is_same(&there, file, sha256).await => return Ok(name),
                Ok(Some(_)) => {}
                // A folder has this name.
                Err(error) if is(&error, "TypeMismatchError") => {}
                Ok(None) => {
                    return self.write(&name, file).await.map(|()| name);
                }
                Err(error) => return Err(failed(&error)),
            }
        }
        Err(Failure::new("exists", name))
    }

    async fn there(&self, name: &str) -> Result<Option<Blob>, JsValue> {
        match JsFuture::from(self.0.get_file_handle(name)).await {
            Ok(handle) => {
                let handle: FileSystemFileHandle = handle.unchecked_into();
                let file = JsFuture::from(handle.get_file()).await?;
                Ok(Some(file.unchecked_into()))
            }
            Err(error) if is(&error, "NotFoundError") => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn write(&self, name: &str, file: &Blob) -> Result<(), Failure> {
        let options = FileSystemGetFileOptions::new();
        options.set_create(true);
        let made = self.0.get_file_handle_with_options(name, &options);
        let handle = JsFuture::from(made).await.map_err(|error| failed(&error))?;
        let handle: FileSystemFileHandle = handle.unchecked_into();
        let written = async {
            let stream = JsFuture::from(handle.create_writable()).await?;
            let stream: FileSystemWritableFileStream = stream.unchecked_into();
            // It stands under its name once it is closed.
            JsFuture::from(stream.write_with_blob(file)?).await?;
            JsFuture::from(stream.close()).await
        };
        if let Err(error) = written.await {
            let _ = JsFuture::from(self.0.remove_entry(name)).await;
            return Err(failed(&error));
        }
        Ok(())
    }
}

async fn is_same(there: &Blob, file: &Blob, sha256: [u8; 32]) -> bool {
    const AT_ONCE: f64 = (1 << 20) as f64;
    if there.size() != file.size() {
        return false;
    }
    let mut hash = Sha256::new();
    let mut at = 0.0;
    while at < there.size() {
        let Ok(part) = there.slice_with_f64_and_f64(at, at + AT_ONCE) else {
            return false;
        };
        let Ok(bytes) = JsFuture::from(part.array_buffer()).await else {
            return false;
        };
        hash.update(Uint8Array::new(&bytes).to_vec());
        at += AT_ONCE;
    }
    hash.finalize()[..] == sha256
}

fn is(error: &JsValue, name: &str) -> bool {
    error
        .dyn_ref::<DomException>()
        .is_some_and(|error| error.name() == name)
}

fn failed(error: &JsValue) -> Failure {
    let code = if is(error, "NotAllowedError") {
        "folder_denied"
    } else {
        "disk_full"
    };
    let name = error.dyn_ref::<DomException>().map(DomException::name);
    Failure::new(code, name.unwrap_or_default())
}

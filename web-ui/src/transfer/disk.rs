//! Where a download is written: the browser's own disk space, in place, by a worker; or memory,
//! where there is none and the file is small enough.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use futures::channel::oneshot;
use js_sys::{ArrayBuffer, Object, Reflect, Uint8Array};
use wasm_bindgen::{JsCast, JsValue, closure::Closure};
use wasm_bindgen_futures::JsFuture;
use web_sys::{
    Blob, FileSystemDirectoryHandle, FileSystemFileHandle, FileSystemGetDirectoryOptions,
    MessageEvent, Worker, WorkerOptions, WorkerType,
};

use crate::{browser, sentence::Failure};

/// The largest file that is held in memory.
const MEMORY: u64 = 256 << 20;
/// The folder of the worker.
const FOLDER: &str = "transfers";

/// An open file.
pub(crate) enum Store {
    Disk { disk: Disk, name: String },
    Memory(RefCell<BTreeMap<u64, Uint8Array>>),
}

impl Store {
    /// Opens `name` for a file of `size` bytes. Second: what was written under this name before is
    /// still there.
    pub(crate) async fn open(name: &str, size: u64) -> Result<(Self, bool), Failure> {
        let opened = async {
            let disk = Disk::shared()?;
            let there = disk.ask("open", name, |_| {}).await?;
            Ok::<_, String>((disk, there.as_f64().unwrap_or(0.0)))
        };
        match opened.await {
            Ok((disk, there)) => {
                let store = Self::Disk {
                    disk,
                    name: name.to_owned(),
                };
                Ok((store, there > 0.0))
            }
            Err(_) if size <= MEMORY => Ok((Self::Memory(RefCell::default()), false)),
            Err(error) => Err(Failure::new("disk_full", error)),
        }
    }

    pub(crate) async fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Failure> {
        let data = Uint8Array::from(bytes);
        match self {
            Self::Memory(pieces) => {
                pieces.borrow_mut().insert(at, data);
                Ok(())
            }
            Self::Disk { disk, name } => disk
                .ask_with("write", name, Some(&data.buffer()), |message| {
                    set(message, "at", &(at as f64).into());
                    set(message, "data", &data.buffer());
                })
                .await
                .map(drop)
                .map_err(|error| Failure::new("disk_full", error)),
        }
    }

    pub(crate) async fn read(&self, at: u64, length: u64) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Memory(pieces) => {
                let pieces = pieces.borrow();
                let found = pieces.range(..=at).next_back().and_then(|(start, piece)| {
                    let from = u32::try_from(at - start).ok()?;
                    (from < piece.length()).then(|| {
                        let until = (u64::from(from) + length).min(u64::from(piece.length()));
                        piece.slice(from, until as u32).to_vec()
                    })
                });
                found.ok_or_else(|| Failure::new("unreadable", ""))
            }
            Self::Disk { disk, name } => {
                let answer = disk
                    .ask("read", name, |message| {
                        set(message, "at", &(at as f64).into());
                        set(message, "length", &(length as f64).into());
                    })
                    .await
                    .map_err(|error| Failure::new("unreadable", error))?;
                Ok(Uint8Array::new(&answer).to_vec())
            }
        }
    }

    /// What is written survives a crash of the computer, not only of the tab.
    pub(crate) async fn flush(&self) {
        if let Self::Disk { disk, name } = self {
            let _ = disk.ask("flush", name, |_| {}).await;
        }
    }

    pub(crate) async fn close(&self) {
        if let Self::Disk { disk, name } = self {
            let _ = disk.ask("close", name, |_| {}).await;
        }
    }

    /// The whole file, which stays where it is: on disk.
    pub(crate) async fn whole(&self) -> Result<Blob, Failure> {
        match self {
            Self::Memory(pieces) => {
                let parts = js_sys::Array::new();
                for piece in pieces.borrow().values() {
                    parts.push(piece);
                }
                Blob::new_with_u8_array_sequence(&parts)
                    .map_err(|_| Failure::new("disk_full", "memory"))
            }
            Self::Disk { name, .. } => {
                self.close().await;
                stored(name)
                    .await
                    .map_err(|error| Failure::new("unreadable", format!("{error:?}")))
            }
        }
    }
}

/// Removes a stored file.
pub(crate) async fn remove(name: &str) {
    if let Ok(disk) = Disk::shared() {
        let _ = disk.ask("remove", name, |_| {}).await;
    }
}

async fn stored(name: &str) -> Result<Blob, JsValue> {
    let root: FileSystemDirectoryHandle =
        JsFuture::from(browser::window().navigator().storage().get_directory())
            .await?
            .dyn_into()?;
    let options = FileSystemGetDirectoryOptions::new();
    options.set_create(true);
    let folder: FileSystemDirectoryHandle =
        JsFuture::from(root.get_directory_handle_with_options(FOLDER, &options))
            .await?
            .dyn_into()?;
    let handle: FileSystemFileHandle = JsFuture::from(folder.get_file_handle(name))
        .await?
        .dyn_into()?;
    JsFuture::from(handle.get_file()).await?.dyn_into()
}

/// Who waits for the worker's answer to which message.
type Waiting = BTreeMap<u32, oneshot::Sender<Result<JsValue, String>>>;

/// The worker that writes, one for the page.
#[derive(Clone)]
pub(crate) struct Disk {
    worker: Worker,
    waiting: Rc<RefCell<Waiting>>,
}

thread_local! {
    static SHARED: RefCell<Option<Disk>> = const { RefCell::new(None) };
}

impl Disk {
    fn shared() -> Result<Self, String> {
        if let Some(disk) = SHARED.with_borrow(Clone::clone) {
            return Ok(disk);
        }
        let url = browser::meta("ringback-disk").ok_or("the page lacks its worker")?;
        let options = WorkerOptions::new();
        options.set_type(WorkerType::Module);
        let worker = Worker::new_with_options(&url, &options)
            .map_err(|_| "the browser starts no worker".to_owned())?;
        let disk = Self {
            worker,
            waiting: Rc::default(),
        };
        let waiting = disk.waiting.clone();
        let answered = Closure::<dyn FnMut(MessageEvent)>::new(move |event: MessageEvent| {
            let data = event.data();
            let number = field(&data, "id").as_f64().unwrap_or(-1.0) as u32;
            if let Some(sender) = waiting.borrow_mut().remove(&number) {
                let _ = sender.send(match field(&data, "error").as_string() {
                    Some(error) => Err(error),
                    None => Ok(field(&data, "value")),
                });
            }
        });
        disk.worker
            .set_onmessage(Some(answered.as_ref().unchecked_ref()));
        answered.forget();
        let waiting = disk.waiting.clone();
        let broken = Closure::<dyn FnMut()>::new(move || waiting.borrow_mut().clear());
        disk.worker
            .set_onerror(Some(broken.as_ref().unchecked_ref()));
        broken.forget();
        SHARED.with_borrow_mut(|shared| *shared = Some(disk.clone()));
        Ok(disk)
    }

    async fn ask(
        &self,
        operation: &str,
        name: &str,
        fill: impl FnOnce(&Object),
    ) -> Result<JsValue, String> {
        self.ask_with(operation, name, None, fill).await
    }

    async fn ask_with(
        &self,
        operation: &str,
        name: &str,
        given: Option<&ArrayBuffer>,
        fill: impl FnOnce(&Object),
    ) -> Result<JsValue, String> {
        let number = browser::fresh_number();
        let message = Object::new();
        set(&message, "id", &number.into());
        set(&message, "op", &operation.into());
        set(&message, "name", &name.into());
        fill(&message);
        let (sender, answer) = oneshot::channel();
        self.waiting.borrow_mut().insert(number, sender);
        let posted = match given {
            Some(buffer) => self
                .worker
                .post_message_with_transfer(&message, &js_sys::Array::of1(buffer)),
            None => self.worker.post_message(&message),
        };
        posted.map_err(|_| "the worker takes no message".to_owned())?;
        answer
            .await
            .unwrap_or_else(|_| Err("the worker is gone".into()))
    }
}

fn set(object: &Object, key: &str, value: &JsValue) {
    let _ = Reflect::set(object, &key.into(), value);
}

fn field(object: &JsValue, key: &str) -> JsValue {
    Reflect::get(object, &key.into()).unwrap_or(JsValue::UNDEFINED)
}

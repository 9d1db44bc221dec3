//! The page's end of the bridge to a page of a device's network: requests that the LAN origin's
//! service worker hands over a port become HTTP exchanges over the link (PROTOCOL.md, section 20.4).
//! What it can ask for is that one service, and nothing else of this page.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
};

use futures::{FutureExt, StreamExt, channel::mpsc};
use js_sys::{Array, ArrayBuffer, Object, Reflect, Uint8Array};
use leptos::task::spawn_local;
use ringback_protocol::service::{
    FrameBuffer,
    http::{Header, HttpAnswer, HttpError, HttpRequest, HttpResponse},
};
use ringback_wasm::{Mode, Stream};
use wasm_bindgen::{JsCast, JsValue, closure::Closure};
use web_sys::{MessageEvent, MessagePort};

use crate::{
    browser,
    cookies::{Asker, Cookies},
    links::Links,
    live::Live,
    sentence::Failure,
    site::{self, Site},
};

/// Chunks that are on their way to the service worker at most.
const WINDOW: u32 = 16;
/// Exchanges at a time; more wait. A link carries 64 streams, of which others want some.
const AT_ONCE: usize = 32;

/// One open page.
#[derive(Clone)]
pub(crate) struct Bridge {
    links: Links,
    service: Rc<str>,
    /// The page's address on the device's network.
    site: Rc<Site>,
    cookies: Rc<RefCell<Cookies>>,
    served: Rc<RefCell<Option<Served>>>,
    /// Where the page is, by its navigations.
    pub(crate) place: Live<String>,
}

/// A port that is answered. Who has its other end is not asked: so it ends with the frame it was for.
struct Served {
    port: MessagePort,
    exchanges: Exchanges,
    queue: Rc<RefCell<Vec<JsValue>>>,
    _on_message: Closure<dyn FnMut(MessageEvent)>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.port.set_onmessage(None);
        self.port.close();
        // Those under way end by this, as if they were cancelled.
        self.queue.borrow_mut().clear();
        self.exchanges.borrow_mut().clear();
    }
}

type Exchanges = Rc<RefCell<HashMap<u32, mpsc::UnboundedSender<Said>>>>;

/// What the service worker says about an exchange that is under way.
enum Said {
    Pull,
    Cancel,
}

impl Bridge {
    pub(crate) fn new(links: Links, service: &str, target: Option<&str>) -> Self {
        Self {
            links,
            service: service.into(),
            site: Rc::new(Site::new(target.unwrap_or_default())),
            cookies: Rc::default(),
            served: Rc::default(),
            place: Live::new("/".into()),
        }
    }

    /// Answers what comes over `port` until it is replaced, or [`Self::close`].
    pub(crate) fn serve(&self, port: &MessagePort) {
        self.close();
        let exchanges = Exchanges::default();
        let queue: Rc<RefCell<Vec<JsValue>>> = Rc::default();
        let running = Rc::new(Cell::new(0));
        let (bridge, to) = (self.clone(), port.clone());
        let (waiting, under_way) = (queue.clone(), exchanges.clone());
        let on_message = Closure::<dyn FnMut(MessageEvent)>::new(move |event: MessageEvent| {
            let data = event.data();
            let Some(id) = number(&data, "id") else {
                return;
            };
            if let Some(said) = said(&data) {
                if let Some(exchange) = exchanges.borrow().get(&id) {
                    let _ = exchange.unbounded_send(said);
                }
                return;
            }
            queue.borrow_mut().push(data);
            bridge.next(&queue, &running, &exchanges, &to);
        });
        port.set_onmessage(Some(on_message.as_ref().unchecked_ref()));
        *self.served.borrow_mut() = Some(Served {
            port: port.clone(),
            exchanges: under_way,
            queue: waiting,
            _on_message: on_message,
        });
    }

    /// Answers nobody any more.
    pub(crate) fn close(&self) {
        let served = self.served.borrow_mut().take();
        drop(served);
    }

    /// Begins the next exchange that waits, if there is room for it.
    fn next(
        &self,
        queue: &Rc<RefCell<Vec<JsValue>>>,
        running: &Rc<Cell<usize>>,
        exchanges: &Exchanges,
        port: &MessagePort,
    ) {
        if running.get() >= AT_ONCE || queue.borrow().is_empty() {
            return;
        }
        let request = queue.borrow_mut().remove(0);
        running.set(running.get() + 1);
        let (bridge, queue, running, exchanges, port) = (
            self.clone(),
            queue.clone(),
            running.clone(),
            exchanges.clone(),
            port.clone(),
        );
        spawn_local(async move {
            let id = number(&request, "id").unwrap_or(0);
            let (sender, said) = mpsc::unbounded();
            exchanges.borrow_mut().insert(id, sender);
            if let Err(failure) = bridge.exchange(id, &request, said, &port).await {
                let (title, advice) = failure.sentence(browser::unix_s());
                say(
                    &port,
                    id,
                    "error",
                    &format!("{title} {advice}").into(),
                    None,
                );
            }
            exchanges.borrow_mut().remove(&id);
            running.set(running.get() - 1);
            bridge.next(&queue, &running, &exchanges, &port);
        });
    }

    async fn exchange(
        &self,
        id: u32,
        message: &JsValue,
        mut said: mpsc::UnboundedReceiver<Said>,
        port: &MessagePort,
    ) -> Result<(), Failure> {
        let (request, body) = self.request(message)?;
        if field(message, "navigate").is_truthy() {
            self.place.set(request.target.clone());
        }
        let path = request.target.clone();
        let Some((_, link)) = self.links.other_than(None).await else {
            return Err(Failure::new("link_lost", ""));
        };
        let stream = link.open(&self.service, Mode::Http)?;
        let outcome = self
            .carry(id, &stream, request, body, &path, &mut said, port)
            .await;
        if outcome.is_err() {
            stream.reset();
        }
        outcome
    }

    #[expect(clippy::too_many_arguments, reason = "parts of one exchange")]
    async fn carry(
        &self,
        id: u32,
        stream: &Stream,
        request: HttpRequest,
        body: Option<Vec<u8>>,
        path: &str,
        said: &mut mpsc::UnboundedReceiver<Said>,
        port: &MessagePort,
    ) -> Result<(), Failure> {
        let head = request
            .encode()
            .map_err(|error| Failure::new("too_large", error.to_string()))?;
        stream.write(&head).await?;
        let sending = {
            let stream = stream.clone();
            async move {
                if let Some(body) = body {
                    for chunk in body.chunks(256 << 10) {
                        stream.write(chunk).await?;
                    }
                }
                stream.finish();
                Ok::<_, Failure>(())
            }
        };
        let receiving = async {
            let mut buffer = FrameBuffer::default();
            let frame = loop {
                if let Some(frame) = buffer.next_frame().map_err(misbehaved)? {
                    break frame;
                }
                match stream.read().await? {
                    Some(bytes) => buffer.push(&bytes),
                    None => return Err(Failure::new("stream_reset", "no answer")),
                }
            };
            match HttpAnswer::decode(&frame).map_err(misbehaved)? {
                HttpAnswer::Response(response) => Ok((response, buffer.take_rest())),
                HttpAnswer::Failed(failed) => Err(refused(&failed.code, &failed.detail)),
            }
        };
        // A host may answer before it has read the body, and need not read it at all.
        let mut sending = Box::pin(sending.fuse());
        let mut receiving = Box::pin(receiving.fuse());
        let (response, mut pending) = loop {
            futures::select_biased! {
                response = receiving => break response?,
                sent = sending => match sent {
                    Ok(()) => continue,
                    Err(_) => break receiving.await?,
                },
            }
        };
        self.answer_head(id, &response, path, port);
        let mut credit = WINDOW;
        loop {
            while credit == 0 {
                match said.next().await {
                    Some(Said::Pull) => credit += 1,
                    Some(Said::Cancel) | None => {
                        stream.reset();
                        return Ok(());
                    }
                }
            }
            while let Ok(said) = said.try_recv() {
                match said {
                    Said::Pull => credit += 1,
                    Said::Cancel => {
                        stream.reset();
                        return Ok(());
                    }
                }
            }
            if pending.is_empty() {
                match stream.read().await? {
                    Some(bytes) => pending = bytes,
                    None => break,
                }
            }
            let chunk = Uint8Array::from(&std::mem::take(&mut pending)[..]).buffer();
            say(port, id, "chunk", &chunk, Some(&chunk));
            credit -= 1;
        }
        say(port, id, "end", &true.into(), None);
        Ok(())
    }

    fn request(&self, message: &JsValue) -> Result<(HttpRequest, Option<Vec<u8>>), Failure> {
        let bad = || Failure::new("bad_request", "not a request");
        let method = field(message, "method").as_string().ok_or_else(bad)?;
        let target = field(message, "url")
            .as_string()
            .filter(|url| url.starts_with('/'))
            .ok_or_else(bad)?;
        let body = field(message, "body")
            .dyn_into::<ArrayBuffer>()
            .ok()
            .map(|body| Uint8Array::new(&body).to_vec());
        let from = field(message, "from").as_string();
        let asker = match from.as_deref() {
            Some("page" | "address") => Asker::Site,
            // It may lead here, and nothing else.
            Some("elsewhere") if method == "GET" => Asker::Other,
            _ => return Err(bad()),
        };
        let mut headers: Vec<Header> = pairs(&field(message, "headers"))
            .into_iter()
            .filter(|(name, _)| site::goes_out(name))
            .map(|(name, value)| Header::new(name, value))
            .collect();
        // Nothing decodes on the way back but the service worker, which knows these.
        headers.push(Header::new("accept-encoding", "gzip, deflate"));
        if let Ok(agent) = browser::window().navigator().user_agent() {
            headers.push(Header::new("user-agent", agent));
        }
        if from.as_deref() == Some("page") {
            let referrer = field(message, "referrer").as_string().unwrap_or_default();
            let named = self.site.origin_and_referer(&method, &referrer);
            headers.extend(named.map(|(name, value)| Header::new(name, value)));
        }
        if let Some(cookies) = self.cookies.borrow().header(&target, asker) {
            headers.push(Header::new("cookie", cookies));
        }
        if let Some(body) = &body {
            headers.push(Header::new("content-length", body.len().to_string()));
        }
        let request = HttpRequest {
            method,
            target,
            headers,
            body: body.is_some(),
        };
        Ok((request, body))
    }

    fn answer_head(&self, id: u32, response: &HttpResponse, path: &str, port: &MessagePort) {
        let headers = Array::new();
        for header in &response.headers {
            let name = header.name().to_ascii_lowercase();
            let value: String = header
                .value()
                .iter()
                .map(|&byte| char::from(byte))
                .collect();
            if name == "set-cookie" {
                self.cookies.borrow_mut().set(&value, path);
                continue;
            }
            let value = match name.as_str() {
                "location" => self.site.local(&value),
                "content-security-policy" | "content-security-policy-report-only" => {
                    site::without_ancestors(&value)
                }
                _ => value,
            };
            if site::comes_in(&name) {
                headers.push(&Array::of2(&name.into(), &value.into()));
            }
        }
        // Framed by the registry's page only; and documents say where their requests come from, by
        // which the service worker knows them, but to their own site only.
        let framed = format!("frame-ancestors 'self' {}", browser::origin());
        for (name, value) in [
            ("content-security-policy", framed.as_str()),
            ("referrer-policy", "same-origin"),
        ] {
            headers.push(&Array::of2(&name.into(), &value.into()));
        }
        let message = Object::new();
        set(&message, "id", &id.into());
        set(&message, "status", &response.status.into());
        set(&message, "headers", &headers);
        let _ = port.post_message(&message);
    }
}

fn refused(code: &HttpError, detail: &str) -> Failure {
    Failure::new(code.as_str(), detail)
}

fn misbehaved(error: impl std::fmt::Display) -> Failure {
    Failure::new("device_misbehaved", error.to_string())
}

fn said(data: &JsValue) -> Option<Said> {
    if field(data, "pull").is_truthy() {
        Some(Said::Pull)
    } else if field(data, "cancel").is_truthy() {
        Some(Said::Cancel)
    } else {
        None
    }
}

fn say(port: &MessagePort, id: u32, key: &str, value: &JsValue, given: Option<&ArrayBuffer>) {
    let message = Object::new();
    set(&message, "id", &id.into());
    set(&message, key, value);
    let _ = match given {
        Some(buffer) => port.post_message_with_transferable(&message, &Array::of1(buffer)),
        None => port.post_message(&message),
    };
}

fn pairs(list: &JsValue) -> Vec<(String, String)> {
    Array::from(list)
        .iter()
        .filter_map(|pair| {
            let pair: Array = pair.dyn_into().ok()?;
            Some((pair.get(0).as_string()?, pair.get(1).as_string()?))
        })
        .collect()
}

fn number(data: &JsValue, key: &str) -> Option<u32> {
    field(data, key).as_f64().map(|value| value as u32)
}

fn field(data: &JsValue, key: &str) -> JsValue {
    Reflect::get(data, &key.into()).unwrap_or(JsValue::UNDEFINED)
}

fn set(object: &Object, key: &str, value: &JsValue) {
    let _ = Reflect::set(object, &key.into(), value);
}

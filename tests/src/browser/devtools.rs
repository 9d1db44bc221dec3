//! The Chrome DevTools Protocol over a pipe: JSON messages that end with a zero byte.
//!
//! One thread reads. It answers what has to be answered at once (a new target waits until its
//! domains are enabled, so that nothing of it is missed), and keeps the rest for those who wait.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{ChildStdin, ChildStdout},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};

use super::incident::Incident;

/// How long anything in a browser may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Commands that a target of ours begins with.
const BEGINNING: &[(&str, &str)] = &[
    ("Runtime.enable", "{}"),
    ("Log.enable", "{}"),
    ("Audits.enable", "{}"),
    ("Network.enable", "{}"),
    ("Inspector.enable", "{}"),
    ("Page.enable", "{}"),
    (
        "Target.setAutoAttach",
        r#"{"autoAttach":true,"waitForDebuggerOnStart":true,"flatten":true}"#,
    ),
    ("Runtime.runIfWaitingForDebugger", "{}"),
];

/// The connection to one browser.
pub(super) struct DevTools {
    input: Mutex<Option<ChildStdin>>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    last_id: u64,
    /// Commands whose answers are awaited, and the answers that have come.
    answers: HashMap<u64, Option<Result<Value, String>>>,
    targets: Vec<Target>,
    incidents: Vec<Incident>,
    allowed: Vec<String>,
    /// What was waited for in vain.
    troubles: Vec<String>,
    /// Kinds of dialogs that wait for the person's answer, such as `beforeunload`, by session.
    dialogs: Vec<(String, String)>,
    downloads: HashMap<String, String>,
    saved: VecDeque<Result<(String, String), String>>,
    ended: bool,
}

/// A page, a frame of another site, or a worker.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) id: String,
    pub(super) session: String,
    pub(super) kind: String,
    pub(super) url: String,
}

/// What outlives a restart of the browser.
#[derive(Debug)]
pub(super) struct Record {
    incidents: Vec<Incident>,
    allowed: Vec<String>,
}

impl fmt::Debug for DevTools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DevTools").finish_non_exhaustive()
    }
}

impl DevTools {
    /// Takes the pipes of a browser.
    pub(super) fn over(input: ChildStdin, output: ChildStdout) -> Result<Arc<Self>> {
        let tools = Arc::new(Self {
            input: Mutex::new(Some(input)),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let reader = Arc::clone(&tools);
        // Ends with the browser, when the pipe has no writer left.
        std::thread::Builder::new()
            .name("devtools".into())
            .spawn(move || reader.read(output))?;
        Ok(tools)
    }

    /// Lets the browser tell of every target, and save what pages offer.
    pub(super) fn prepare(&self, downloads: &Path) -> Result<()> {
        let attach = json!({ "autoAttach": true, "waitForDebuggerOnStart": true, "flatten": true });
        self.call(None, "Target.setAutoAttach", &attach)?;
        self.call(
            None,
            "Target.setDiscoverTargets",
            &json!({ "discover": true }),
        )?;
        let save = json!({
            "behavior": "allowAndName", "downloadPath": downloads, "eventsEnabled": true,
        });
        self.call(None, "Browser.setDownloadBehavior", &save)?;
        Ok(())
    }

    /// Sends a command, to a target or to the browser, and waits for its answer.
    pub(super) fn call(
        &self,
        session: Option<&str>,
        method: &str,
        parameters: &Value,
    ) -> Result<Value> {
        self.call_within(PATIENCE, session, method, parameters)
    }

    /// The same for what may take its time.
    pub(super) fn call_within(
        &self,
        timeout: Duration,
        session: Option<&str>,
        method: &str,
        parameters: &Value,
    ) -> Result<Value> {
        let id = self.send(session, method, parameters, true)?;
        let answer = self.await_state(timeout, |state| {
            state
                .answers
                .get(&id)
                .is_some_and(Option::is_some)
                .then(|| state.answers.remove(&id).flatten())
                .flatten()
        });
        match answer {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(error)) => bail!("{method}: {error}"),
            Err(error) => {
                self.lock().answers.remove(&id);
                Err(error.context(method.to_owned()))
            }
        }
    }

    /// The target of that ID, as soon as it is attached.
    pub(super) fn await_attached(&self, id: &str) -> Result<Target> {
        self.await_state(PATIENCE, |state| {
            state.targets.iter().find(|target| target.id == id).cloned()
        })
    }

    /// The ID of a target that is accepted.
    pub(super) fn await_target(
        &self,
        timeout: Duration,
        accept: impl Fn(&Target) -> bool,
    ) -> Result<String> {
        self.await_state(timeout, |state| {
            let found = state.targets.iter().find(|target| accept(target));
            found.map(|target| target.id.clone())
        })
    }

    /// The targets that are there.
    pub(super) fn targets(&self) -> Vec<Target> {
        self.lock().targets.clone()
    }

    /// ID and name of the next file that was saved.
    pub(super) fn await_download(&self, timeout: Duration) -> Result<(String, String)> {
        let saved = self.await_state(timeout, |state| state.saved.pop_front());
        saved
            .context("no file was saved")?
            .map_err(|error| anyhow!(error))
    }

    /// The kind of the dialog that waits for an answer in a target, as soon as there is one.
    pub(super) fn await_dialog(&self, session: &str) -> Result<String> {
        self.await_state(PATIENCE, |state| {
            let at = state.dialogs.iter().position(|(of, _)| of == session)?;
            Some(state.dialogs.remove(at).1)
        })
        .context("the browser asks nothing")
    }

    /// Whether a dialog waits for an answer.
    pub(super) fn has_dialog(&self, session: &str) -> bool {
        self.lock().dialogs.iter().any(|(of, _)| of == session)
    }

    /// Sends a command of which nobody waits for the answer.
    pub(super) fn begin(&self, session: &str, method: &str, parameters: &Value) -> Result<()> {
        self.send(Some(session), method, parameters, false)
            .map(drop)
    }

    pub(super) fn allow(&self, part: &str) {
        self.lock().allowed.push(part.to_owned());
    }

    /// Keeps it for the end of the test: an error that is returned is not told where the browser's
    /// own complaints end the test first.
    pub(super) fn note_trouble(&self, trouble: String) {
        self.lock().troubles.push(trouble);
    }

    pub(super) fn troubles(&self) -> Vec<String> {
        self.lock().troubles.clone()
    }

    pub(super) fn incidents(&self) -> Vec<Incident> {
        self.lock().incidents.clone()
    }

    pub(super) fn unexpected(&self) -> Vec<Incident> {
        let state = self.lock();
        let is_allowed = |incident: &Incident| {
            let parts = &mut state.allowed.iter();
            parts.any(|part| incident.text.contains(part) || incident.place.contains(part))
        };
        let all = state.incidents.iter();
        all.filter(|incident| !is_allowed(incident))
            .cloned()
            .collect()
    }

    pub(super) fn await_incident(
        &self,
        timeout: Duration,
        accept: impl Fn(&Incident) -> bool,
    ) -> Result<Incident> {
        self.await_state(timeout, |state| {
            state.incidents.iter().find(|found| accept(found)).cloned()
        })
        .context("nothing of that kind went wrong")
    }

    /// Ends the conversation; the browser ends, too.
    pub(super) fn close(&self) -> Record {
        *self.input.lock().expect("not poisoned") = None;
        let mut state = self.lock();
        Record {
            incidents: std::mem::take(&mut state.incidents),
            allowed: std::mem::take(&mut state.allowed),
        }
    }

    /// Goes on with what was seen before a restart.
    pub(super) fn take_over(&self, mut record: Record) {
        let mut state = self.lock();
        record.incidents.append(&mut state.incidents);
        state.incidents = record.incidents;
        state.allowed.append(&mut record.allowed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    /// Waits until `look` finds what it looks for.
    fn await_state<T>(
        &self,
        timeout: Duration,
        mut look: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            if let Some(found) = look(&mut state) {
                return Ok(found);
            }
            if state.ended {
                bail!("the browser has ended");
            }
            let left = deadline
                .checked_duration_since(Instant::now())
                .with_context(|| format!("not within {timeout:?}"))?;
            let waited = self.changed.wait_timeout(state, left);
            state = waited.expect("not poisoned").0;
        }
    }

    fn send(
        &self,
        session: Option<&str>,
        method: &str,
        parameters: &Value,
        awaited: bool,
    ) -> Result<u64> {
        let id = {
            let mut state = self.lock();
            state.last_id += 1;
            let id = state.last_id;
            if awaited {
                state.answers.insert(id, None);
            }
            id
        };
        let mut message = json!({ "id": id, "method": method, "params": parameters });
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        let mut input = self.input.lock().expect("not poisoned");
        let input = input.as_mut().context("the browser has ended")?;
        input.write_all(&bytes).context("the browser has ended")?;
        Ok(id)
    }

    fn read(&self, output: ChildStdout) {
        let mut output = BufReader::new(output);
        let mut bytes = Vec::new();
        while matches!(output.read_until(0, &mut bytes), Ok(1..)) {
            if bytes.last() == Some(&0) {
                bytes.pop();
            }
            let parsed = serde_json::from_slice::<Value>(&bytes);
            bytes.clear();
            if let Ok(message) = parsed {
                self.take(message);
                self.changed.notify_all();
            }
        }
        self.lock().ended = true;
        self.changed.notify_all();
    }

    fn take(&self, mut message: Value) {
        if let Some(id) = message["id"].as_u64() {
            let answer = match message.get("error") {
                Some(error) => Err(error["message"].as_str().unwrap_or("failed").to_owned()),
                None => Ok(message["result"].take()),
            };
            if let Some(slot) = self.lock().answers.get_mut(&id) {
                *slot = Some(answer);
            }
            return;
        }
        let method = message["method"].as_str().unwrap_or_default().to_owned();
        let session = message["sessionId"].as_str().unwrap_or_default().to_owned();
        let parameters = message["params"].take();
        if method == "Target.attachedToTarget" {
            self.attached(&parameters);
            return;
        }
        let mut state = self.lock();
        match method.as_str() {
            "Target.detachedFromTarget" => {
                let gone = parameters["sessionId"].as_str().unwrap_or_default();
                state.targets.retain(|target| target.session != gone);
            }
            "Target.targetInfoChanged" => {
                let info = &parameters["targetInfo"];
                for target in &mut state.targets {
                    if info["targetId"] == *target.id {
                        target.url = info["url"].as_str().unwrap_or_default().to_owned();
                    }
                }
            }
            "Browser.downloadWillBegin" => {
                let text = |key: &str| parameters[key].as_str().unwrap_or_default().to_owned();
                state
                    .downloads
                    .insert(text("guid"), text("suggestedFilename"));
            }
            "Browser.downloadProgress" => state.progress(&parameters),
            "Page.javascriptDialogOpening" => {
                let kind = parameters["type"].as_str().unwrap_or_default();
                state.dialogs.push((session, kind.to_owned()));
            }
            _ => {
                let place = state
                    .targets
                    .iter()
                    .find(|target| target.session == session);
                let place = place.map_or("", |target| target.url.as_str());
                let incident = Incident::of(&method, &parameters, place);
                state.incidents.extend(incident);
            }
        }
    }

    /// Lets a new target go on when everything about it is being told.
    fn attached(&self, parameters: &Value) {
        let info = &parameters["targetInfo"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let target = Target {
            id: text(&info["targetId"]),
            session: text(&parameters["sessionId"]),
            kind: text(&info["type"]),
            url: text(&info["url"]),
        };
        let session = target.session.clone();
        // The browser's own user interface is none of ours.
        let is_ours = matches!(
            target.kind.as_str(),
            "page" | "iframe" | "worker" | "shared_worker" | "service_worker"
        );
        let commands = if is_ours {
            BEGINNING
        } else {
            &BEGINNING[BEGINNING.len() - 1..]
        };
        for (method, parameters) in commands {
            let parameters = serde_json::from_str::<Value>(parameters).expect("JSON");
            // What a kind of target does not know it refuses, which is fine.
            let _ = self.send(Some(&session), method, &parameters, false);
        }
        if is_ours {
            self.lock().targets.push(target);
        }
    }
}

impl State {
    fn progress(&mut self, parameters: &Value) {
        let id = parameters["guid"].as_str().unwrap_or_default().to_owned();
        let outcome = match parameters["state"].as_str() {
            Some("completed") => {
                let name = self.downloads.remove(&id).unwrap_or_default();
                Ok((id, name))
            }
            Some("canceled") => Err(format!(
                "the download of {} was cancelled",
                self.downloads.remove(&id).unwrap_or_default()
            )),
            _ => return,
        };
        self.saved.push_back(outcome);
    }
}

//! A tab, and the frames and workers in it.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    devtools::{DevTools, PATIENCE, Target},
    window::{Scheme, Size},
};

/// Time between two looks at a condition in a page.
const LOOK: Duration = Duration::from_millis(20);

/// A tab.
#[derive(Clone, Debug)]
pub struct Page {
    pub(super) tools: Arc<DevTools>,
    pub(super) target: Target,
}

/// A frame of another site, or a worker: what runs in a process of its own.
#[derive(Clone, Debug)]
pub struct Frame {
    tools: Arc<DevTools>,
    target: Target,
}

impl Page {
    pub(super) fn of(tools: &Arc<DevTools>, target: &str) -> Result<Self> {
        let target = tools.await_attached(target).context("opening a tab")?;
        let page = Self {
            tools: Arc::clone(tools),
            target,
        };
        page.set_size(Size::Desktop)?;
        Ok(page)
    }

    /// Goes to an address, and returns when the document is complete.
    pub fn open(&self, url: &str) -> Result<()> {
        let went = self.call("Page.navigate", &json!({ "url": url }))?;
        if let Some(error) = went["errorText"].as_str() {
            bail!("{url}: {error}");
        }
        // Absent where only the fragment has changed.
        let is_new = went["loaderId"].is_string();
        let condition = if is_new && url != "about:blank" {
            "document.readyState === 'complete' && location.href !== 'about:blank'"
        } else {
            "true"
        };
        self.until(condition)
            .with_context(|| format!("opening {url}"))
    }

    /// Gives the window another size.
    pub fn set_size(&self, size: Size) -> Result<()> {
        let (width, height, scale, mobile) = size.metrics();
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile,
        });
        self.call("Emulation.setDeviceMetricsOverride", &metrics)?;
        self.call(
            "Emulation.setTouchEmulationEnabled",
            &json!({ "enabled": mobile }),
        )?;
        Ok(())
    }

    /// Prefers light or dark.
    pub fn set_scheme(&self, scheme: Scheme) -> Result<()> {
        let features = json!({
            "features": [{ "name": "prefers-color-scheme", "value": scheme.name() }],
        });
        self.call("Emulation.setEmulatedMedia", &features).map(drop)
    }

    /// Loads the document again.
    pub fn reload(&self) -> Result<()> {
        self.eval::<Value>("void (globalThis.ringbackOld = true)")?;
        self.call("Page.reload", &json!({}))?;
        self.until_reloaded()
    }

    /// Begins to load the document again, which the page may have the browser ask about first.
    pub fn begin_reload(&self) -> Result<()> {
        self.eval::<Value>("void (globalThis.ringbackOld = true)")?;
        self.tools
            .begin(&self.target.session, "Page.reload", &json!({}))
    }

    /// Waits until the document is loaded again.
    pub fn until_reloaded(&self) -> Result<()> {
        self.until("!globalThis.ringbackOld && document.readyState === 'complete'")
    }

    /// Begins to close the tab, as a person does, whom the page may have asked first.
    pub fn begin_close(&self) -> Result<()> {
        self.tools
            .begin(&self.target.session, "Page.close", &json!({}))
    }

    /// The kind of the dialog that the browser shows over the page, such as `beforeunload`; the
    /// answer is given.
    pub fn answer_dialog(&self, accept: bool) -> Result<String> {
        let kind = self.tools.await_dialog(&self.target.session)?;
        self.call("Page.handleJavaScriptDialog", &json!({ "accept": accept }))?;
        Ok(kind)
    }

    /// Whether the browser shows a dialog over the page.
    pub fn has_dialog(&self) -> bool {
        self.tools.has_dialog(&self.target.session)
    }

    /// Whether the tab is gone.
    pub fn is_gone(&self) -> bool {
        let targets = self.tools.targets();
        targets.iter().all(|target| target.id != self.target.id)
    }

    /// Steps through the tab's history, as by its buttons.
    pub fn step(&self, by: i32) -> Result<()> {
        let history = self.call("Page.getNavigationHistory", &json!({}))?;
        let at = history["currentIndex"].as_i64().context("no history")? + i64::from(by);
        let entry = usize::try_from(at)
            .ok()
            .and_then(|at| history["entries"].get(at));
        let entry = entry.context("there is no such entry")?;
        self.call(
            "Page.navigateToHistoryEntry",
            &json!({ "entryId": entry["id"] }),
        )
        .map(drop)
    }

    /// The value of an expression; promises are awaited.
    pub fn eval<T: DeserializeOwned>(&self, expression: &str) -> Result<T> {
        self.eval_within(PATIENCE, expression)
    }

    /// The value of an expression that may take its time.
    pub fn eval_within<T: DeserializeOwned>(
        &self,
        timeout: Duration,
        expression: &str,
    ) -> Result<T> {
        evaluate(&self.tools, &self.target, timeout, expression)
    }

    /// Waits until an expression is true; while the document changes it is not.
    pub fn until(&self, condition: &str) -> Result<()> {
        self.until_within(PATIENCE, condition)
    }

    /// The same with another limit.
    pub fn until_within(&self, timeout: Duration, condition: &str) -> Result<()> {
        until(&self.tools, &self.target, timeout, condition).with_context(|| {
            let text = self.text().unwrap_or_default();
            let trouble = format!("waiting for {condition}; the page shows:\n{text}");
            self.tools.note_trouble(trouble.clone());
            trouble
        })
    }

    /// What a person can read.
    pub fn text(&self) -> Result<String> {
        self.eval("document.body?.innerText ?? ''")
    }

    /// Waits until the page shows a text.
    pub fn until_text(&self, text: &str) -> Result<()> {
        let text = Value::from(text);
        self.until(&format!(
            "(document.body?.innerText ?? '').includes({text})"
        ))
    }

    /// The frame of another site, or the worker, whose address is accepted.
    pub fn frame(&self, accept: impl Fn(&str) -> bool) -> Result<Frame> {
        self.frame_after(&[], accept)
    }

    /// The same, but none of those that are known.
    pub fn frame_after(&self, known: &[&Frame], accept: impl Fn(&str) -> bool) -> Result<Frame> {
        let is_known = |id: &str| known.iter().any(|frame| frame.target.id == id);
        let id = self
            .tools
            .await_target(PATIENCE, |target| {
                target.kind != "page" && accept(&target.url) && !is_known(&target.id)
            })
            .context("no such frame or worker")?;
        Ok(Frame {
            tools: Arc::clone(&self.tools),
            target: self.tools.await_attached(&id)?,
        })
    }

    /// Gives files to an `<input type=file>` that the selector finds, as if chosen by the person.
    pub fn choose_files(&self, selector: &str, files: &[&Path]) -> Result<()> {
        let found = format!("document.querySelector({})", Value::from(selector));
        let object = self.call("Runtime.evaluate", &json!({ "expression": found }))?;
        let id = &object["result"]["objectId"];
        if id.is_null() {
            bail!("no element is {selector}");
        }
        self.call(
            "DOM.setFileInputFiles",
            &json!({ "files": files, "objectId": id }),
        )?;
        Ok(())
    }

    /// Cuts the page's HTTP off, or lets it on again. WebRTC is not held up by it; the lab's
    /// routers do that.
    pub fn set_offline(&self, offline: bool) -> Result<()> {
        let conditions = json!({
            "offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1,
        });
        self.call("Network.emulateNetworkConditions", &conditions)
            .map(drop)
    }

    /// Loads everything from the network, as on a first visit.
    pub fn set_cache(&self, enabled: bool) -> Result<()> {
        let parameters = json!({ "cacheDisabled": !enabled });
        self.call("Network.setCacheDisabled", &parameters).map(drop)
    }

    /// Runs a script in every document of this page before its own.
    pub fn on_new_document(&self, script: &str) -> Result<()> {
        self.call(
            "Page.addScriptToEvaluateOnNewDocument",
            &json!({ "source": script }),
        )
        .map(drop)
    }

    /// Kills the tab's renderer, as when the system runs out of memory, and closes the tab. The
    /// page gets no chance to tidy up.
    pub fn kill(self) -> Result<()> {
        self.tools.allow("the renderer has ended");
        // Its own answer does not come any more.
        let _ = self
            .tools
            .call_within(LOOK, Some(&self.target.session), "Page.crash", &json!({}));
        self.close()
    }

    /// Brings the tab to the front, as a person does who goes on with it.
    pub fn to_front(&self) -> Result<()> {
        self.call("Page.bringToFront", &json!({})).map(drop)
    }

    /// Closes the tab.
    pub fn close(self) -> Result<()> {
        let parameters = json!({ "targetId": self.target.id });
        self.tools
            .call(None, "Target.closeTarget", &parameters)
            .map(drop)
    }

    /// A command of the developer tools that has no function here.
    pub fn call(&self, method: &str, parameters: &Value) -> Result<Value> {
        self.tools
            .call(Some(&self.target.session), method, parameters)
    }
}

impl Frame {
    /// Its address when it was found.
    pub fn url(&self) -> &str {
        &self.target.url
    }

    /// As [`Page::eval`].
    pub fn eval<T: DeserializeOwned>(&self, expression: &str) -> Result<T> {
        evaluate(&self.tools, &self.target, PATIENCE, expression)
    }

    /// As [`Page::until`].
    pub fn until(&self, condition: &str) -> Result<()> {
        until(&self.tools, &self.target, PATIENCE, condition)
    }
}

fn until(tools: &DevTools, target: &Target, timeout: Duration, condition: &str) -> Result<()> {
    let deadline = Instant::now() + timeout;
    loop {
        let held = evaluate::<bool>(tools, target, timeout, &format!("!!({condition})"));
        if matches!(held, Ok(true)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            let why = held.err().map(|error| format!(": {error:#}"));
            bail!(
                "not within {timeout:?}: {condition}{}",
                why.unwrap_or_default()
            );
        }
        std::thread::sleep(LOOK);
    }
}

fn evaluate<T: DeserializeOwned>(
    tools: &DevTools,
    target: &Target,
    timeout: Duration,
    expression: &str,
) -> Result<T> {
    let parameters = json!({
        "expression": expression, "awaitPromise": true, "returnByValue": true,
        "userGesture": true, "allowUnsafeEvalBlockedByCSP": true,
    });
    let answer = tools.call_within(
        timeout,
        Some(&target.session),
        "Runtime.evaluate",
        &parameters,
    );
    let mut answer = answer.with_context(|| {
        let begin: String = expression.chars().take(80).collect();
        format!("evaluating {begin}")
    })?;
    if let Some(exception) = answer.get("exceptionDetails") {
        let said = exception["exception"]["description"]
            .as_str()
            .or(exception["exception"]["value"].as_str())
            .or(exception["text"].as_str());
        bail!("{expression}: {}", said.unwrap_or("an exception"));
    }
    let value = answer["result"]["value"].take();
    serde_json::from_value(value).with_context(|| format!("the value of {expression}"))
}

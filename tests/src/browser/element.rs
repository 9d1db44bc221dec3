//! What a person sees and touches: elements by role and name, as a screen reader tells them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{devtools::PATIENCE, page::Page};

/// Where the middle of an element is, once it is in view and nothing lies over it.
const POINT: &str = r"async function () {
    const element = this.nodeType === Node.ELEMENT_NODE ? this : this.parentElement;
    element.scrollIntoView({ block: 'center', inline: 'center', behavior: 'instant' });
    await new Promise(requestAnimationFrame);
    const box = element.getBoundingClientRect();
    const x = box.x + box.width / 2, y = box.y + box.height / 2;
    const hit = document.elementFromPoint(x, y);
    const mine = hit && (element.contains(hit) || hit.contains(element) ||
        [...(element.labels ?? [])].some(label => label.contains(hit)));
    if (!box.width || !box.height || element.disabled || !mine) return null;
    return [x, y];
}";

impl Page {
    /// Clicks the element of a role (`button`, `link`, `textbox`, `menuitem` …) whose accessible
    /// name is this, or else the only one whose name has this in it. Waits until there is one that
    /// can be clicked.
    pub fn click(&self, role: &str, name: &str) -> Result<()> {
        let start = Instant::now();
        loop {
            let clicked = self.try_click(role, name);
            match clicked {
                Ok(()) => return Ok(()),
                Err(error) if start.elapsed() > PATIENCE => {
                    let there = self.describe().unwrap_or_default();
                    let trouble = format!("{error:#}; the page has:\n{there}");
                    self.tools.note_trouble(trouble.clone());
                    return Err(error.context(trouble));
                }
                // It comes, or it is just being replaced.
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Waits until there is such an element.
    pub fn until_role(&self, role: &str, name: &str) -> Result<()> {
        let start = Instant::now();
        loop {
            match self.find(role, name) {
                Ok(_) => return Ok(()),
                Err(error) if start.elapsed() > PATIENCE => {
                    let there = self.describe().unwrap_or_default();
                    let trouble = format!("{error:#}; the page has:\n{there}");
                    self.tools.note_trouble(trouble.clone());
                    return Err(error.context(trouble));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Whether there is such an element now.
    pub fn has(&self, role: &str, name: &str) -> bool {
        self.find(role, name).is_ok()
    }

    /// Clicks the innermost element that shows exactly this text, waiting for it.
    pub fn click_text(&self, text: &str) -> Result<()> {
        let text = Value::from(text);
        let found = format!(
            "[...document.querySelectorAll('body *')].filter(e => e.innerText?.trim() === {text} \
             && ![...e.children].some(c => c.innerText?.trim() === {text}))[0]"
        );
        self.until(&format!("{found} !== undefined"))?;
        let object = self.call("Runtime.evaluate", &json!({ "expression": found }))?;
        self.click_object(&object["result"]["objectId"])
            .with_context(|| format!("clicking the text {text}"))
    }

    /// Replaces what stands in the text field of that name.
    pub fn fill(&self, name: &str, text: &str) -> Result<()> {
        self.click("textbox", name)?;
        self.eval::<Value>("void document.activeElement.select?.()")?;
        self.type_text(text)
    }

    /// Types into what has the focus, as by paste or an input method.
    pub fn type_text(&self, text: &str) -> Result<()> {
        self.call("Input.insertText", &json!({ "text": text }))
            .map(drop)
    }

    /// Presses a key, such as `Enter`, `Tab`, `Escape`, `ArrowDown`, or one character.
    pub fn press(&self, key: &str) -> Result<()> {
        self.press_with(key, 0)
    }

    /// The same with modifiers held: 1 Alt, 2 Control, 4 Meta, 8 Shift, added up.
    pub fn press_with(&self, key: &str, modifiers: u8) -> Result<()> {
        let (code, number, text) = match key {
            "Enter" => ("Enter".to_owned(), 13, Some("\r".to_owned())),
            "Tab" => ("Tab".to_owned(), 9, None),
            "Escape" => ("Escape".to_owned(), 27, None),
            "Backspace" => ("Backspace".to_owned(), 8, None),
            "Delete" => ("Delete".to_owned(), 46, None),
            "ArrowLeft" => ("ArrowLeft".to_owned(), 37, None),
            "ArrowUp" => ("ArrowUp".to_owned(), 38, None),
            "ArrowRight" => ("ArrowRight".to_owned(), 39, None),
            "ArrowDown" => ("ArrowDown".to_owned(), 40, None),
            " " => ("Space".to_owned(), 32, Some(" ".to_owned())),
            key if key.chars().count() == 1 => {
                let upper = key.to_uppercase();
                let number = upper.bytes().next().unwrap_or_default();
                let text = (modifiers & 7 == 0).then(|| key.to_owned());
                (format!("Key{upper}"), i32::from(number), text)
            }
            _ => bail!("no key is called {key}"),
        };
        let mut event = json!({
            "type": if text.is_some() { "keyDown" } else { "rawKeyDown" },
            "key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": modifiers,
        });
        if let Some(text) = text {
            event["text"] = text.into();
        }
        self.call("Input.dispatchKeyEvent", &event)?;
        event["type"] = "keyUp".into();
        event.as_object_mut().expect("made above").remove("text");
        self.call("Input.dispatchKeyEvent", &event).map(drop)
    }

    /// Everything that has a role and a name, one a line: what a screen reader would tell.
    pub fn describe(&self) -> Result<String> {
        let tree = self.call("Accessibility.getFullAXTree", &json!({}))?;
        let mut lines = Vec::new();
        for node in tree["nodes"].as_array().into_iter().flatten() {
            let role = node["role"]["value"].as_str().unwrap_or_default();
            let name = node["name"]["value"].as_str().unwrap_or_default();
            let is_noise = matches!(role, "StaticText" | "InlineTextBox" | "none" | "generic");
            if node["ignored"] != true && !name.is_empty() && !is_noise {
                lines.push(format!("{role} {name:?}"));
            }
        }
        Ok(lines.join("\n"))
    }

    fn try_click(&self, role: &str, name: &str) -> Result<()> {
        let node = self.find(role, name)?;
        let object = self.call("DOM.resolveNode", &json!({ "backendNodeId": node }))?;
        self.click_object(&object["object"]["objectId"])
            .with_context(|| format!("clicking the {role} {name:?}"))
    }

    /// The DOM node of the element of that role and name.
    fn find(&self, role: &str, name: &str) -> Result<i64> {
        let document = self.call("Runtime.evaluate", &json!({ "expression": "document" }))?;
        let query = json!({ "objectId": document["result"]["objectId"], "role": role });
        let found = self.call("Accessibility.queryAXTree", &query)?;
        let nodes: Vec<_> = found["nodes"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|node| node["ignored"] != true)
            .filter_map(|node| {
                let name = node["name"]["value"].as_str().unwrap_or_default();
                Some((name, node["backendDOMNodeId"].as_i64()?))
            })
            .collect();
        let exact = nodes.iter().find(|(found, _)| *found == name);
        if let Some((_, node)) = exact {
            return Ok(*node);
        }
        let mut partly = nodes.iter().filter(|(found, _)| found.contains(name));
        match (partly.next(), partly.next()) {
            (Some((_, node)), None) => Ok(*node),
            (Some((one, _)), Some((other, _))) => {
                bail!("there is more than one {role} {name:?}: {one:?}, {other:?}")
            }
            _ => bail!("there is no {role} {name:?}"),
        }
    }

    fn click_object(&self, object: &Value) -> Result<()> {
        let parameters = json!({
            "functionDeclaration": POINT, "objectId": object, "awaitPromise": true,
            "returnByValue": true,
        });
        let point = self.call("Runtime.callFunctionOn", &parameters)?;
        let point = &point["result"]["value"];
        let (Some(x), Some(y)) = (point[0].as_f64(), point[1].as_f64()) else {
            bail!("it is disabled, has no size, or something lies over it");
        };
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            let is_move = kind == "mouseMoved";
            let event = json!({
                "type": kind, "x": x, "y": y, "clickCount": i32::from(!is_move),
                "button": if is_move { "none" } else { "left" },
            });
            self.call("Input.dispatchMouseEvent", &event)?;
        }
        Ok(())
    }
}

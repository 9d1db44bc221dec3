//! What went wrong in a page.

use std::fmt;

use serde_json::Value;

/// Something that a page should not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    pub kind: Kind,
    /// What the browser said about it.
    pub text: String,
    /// The address of the page, frame or worker.
    pub place: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An exception or rejected promise that nobody caught.
    Exception,
    /// `console.error`, or a failed assertion.
    Console,
    /// An error that the browser itself reported: loads that failed, mixed content and the like.
    Log,
    /// A violation of the page's Content-Security-Policy.
    Policy,
    /// The renderer has ended.
    Crash,
}

impl Incident {
    /// What an event of the developer tools tells, if that is an incident.
    pub(super) fn of(method: &str, parameters: &Value, place: &str) -> Option<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (kind, text) = match method {
            "Runtime.exceptionThrown" => {
                let details = &parameters["exceptionDetails"];
                let said = text(&details["exception"]["description"]);
                let at = format!("{}:{}", text(&details["url"]), details["lineNumber"]);
                (
                    Kind::Exception,
                    format!("{}: {said} ({at})", text(&details["text"])),
                )
            }
            "Runtime.consoleAPICalled"
                if matches!(parameters["type"].as_str(), Some("error" | "assert")) =>
            {
                (Kind::Console, arguments(&parameters["args"]))
            }
            "Log.entryAdded" if parameters["entry"]["level"] == "error" => {
                let entry = &parameters["entry"];
                let said = format!("{} {}", text(&entry["text"]), text(&entry["url"]));
                // The browser itself asks for it; no page did anything wrong.
                if said.ends_with("/favicon.ico") {
                    return None;
                }
                let is_policy = said.contains("Content Security Policy");
                (if is_policy { Kind::Policy } else { Kind::Log }, said)
            }
            "Audits.issueAdded" if parameters["issue"]["code"] == "ContentSecurityPolicyIssue" => {
                let details = &parameters["issue"]["details"]["contentSecurityPolicyIssueDetails"];
                let said = format!(
                    "{}: {} {}",
                    text(&details["contentSecurityPolicyViolationType"]),
                    text(&details["violatedDirective"]),
                    text(&details["blockedURL"])
                );
                (Kind::Policy, said)
            }
            "Inspector.targetCrashed" => (Kind::Crash, "the renderer has ended".to_owned()),
            _ => return None,
        };
        Some(Self {
            kind,
            text,
            place: place.to_owned(),
        })
    }
}

impl fmt::Display for Incident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, text, place } = self;
        write!(f, "{kind:?} in {place}: {text}")
    }
}

fn arguments(list: &Value) -> String {
    let show = |argument: &Value| match argument["description"].as_str() {
        Some(text) => text.to_owned(),
        None => match &argument["value"] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        },
    };
    let words: Vec<String> = list.as_array().into_iter().flatten().map(show).collect();
    words.join(" ")
}

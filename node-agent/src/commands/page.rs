//! Text in columns, 80 wide, with colours where somebody looks.

use std::io::{self, IsTerminal as _};

/// The width that every terminal has.
const WIDTH: usize = 80;
/// Where the text of a row begins: behind its level and its title.
const LEVEL: usize = 9;
const TITLE: usize = 14;
const TEXT: usize = LEVEL + TITLE;

/// How good a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Good,
    Middling,
    Bad,
}

impl Mark {
    fn colour(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Middling => "33",
            Self::Bad => "31",
        }
    }
}

/// Lines as they are put together.
#[derive(Debug)]
pub(super) struct Page {
    text: String,
    colours: bool,
}

impl Page {
    pub(super) fn on_stdout() -> Self {
        Self::new(io::stdout().is_terminal())
    }

    pub(super) fn on_stderr() -> Self {
        Self::new(io::stderr().is_terminal())
    }

    fn new(is_terminal: bool) -> Self {
        // no-color.org: set and not empty.
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            text: String::new(),
            colours: is_terminal && !unwanted,
        }
    }

    /// `level    Title         text`
    pub(super) fn row(&mut self, mark: Mark, level: &str, title: &str, text: &str) {
        let level = format!("{level:<LEVEL$}");
        self.paint(mark.colour(), &level);
        self.paint("1", &format!("{title:<TITLE$}"));
        self.wrapped(TEXT, TEXT, text);
    }

    /// A line that belongs to the row above.
    pub(super) fn detail(&mut self, text: &str) {
        self.dim(TEXT, "", text);
    }

    pub(super) fn advice(&mut self, text: &str) {
        self.text += &" ".repeat(TEXT);
        self.text += "→ ";
        self.wrapped(TEXT + 2, TEXT + 2, text);
    }

    /// A line that begins a new part.
    pub(super) fn heading(&mut self, text: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        let mut text = text.to_owned();
        if let Some(first) = text.get(..1) {
            text.replace_range(..1, &first.to_uppercase());
        }
        let begin = self.text.len();
        self.wrapped(0, 0, &text);
        if self.colours {
            let line = self.text.split_off(begin);
            self.paint("1", line.trim_end());
            self.text.push('\n');
        }
    }

    /// What, and in the next line what is said of it.
    pub(super) fn pair(&mut self, mark: Mark, what: &str, said: &str) {
        self.text += "  ";
        self.paint(mark.colour(), what);
        self.text.push('\n');
        self.text += "    ";
        self.wrapped(4, 4, said);
    }

    pub(super) fn entry(&mut self, what: &str, said: &str) {
        self.text += "  ";
        self.text += what;
        self.text.push('\n');
        self.dim(4, "", said);
    }

    pub(super) fn item(&mut self, text: &str) {
        self.text += "  - ";
        self.wrapped(4, 4, text);
    }

    pub(super) fn finish(self) -> String {
        self.text
    }

    fn dim(&mut self, indent: usize, before: &str, text: &str) {
        let begin = self.text.len();
        self.text += &" ".repeat(indent);
        self.text += before;
        self.wrapped(indent, indent, text);
        if self.colours {
            let lines = self.text.split_off(begin);
            self.paint("2", lines.trim_end());
            self.text.push('\n');
        }
    }

    fn paint(&mut self, colour: &str, text: &str) {
        if self.colours && !text.trim().is_empty() {
            self.text += &format!("\x1b[{colour}m{text}\x1b[0m");
        } else {
            self.text += text;
        }
    }

    /// Words in lines of at most [`WIDTH`]; the first line goes on at column `at`, the others begin
    /// at `indent`. A word that is longer has a line of its own.
    fn wrapped(&mut self, mut at: usize, indent: usize, text: &str) {
        let mut first = true;
        for word in text.split_whitespace() {
            let length = word.chars().count();
            if !first && at + 1 + length > WIDTH {
                self.text.push('\n');
                self.text += &" ".repeat(indent);
                at = indent;
            } else if !first {
                self.text.push(' ');
                at += 1;
            }
            self.text += word;
            at += length;
            first = false;
        }
        self.text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_within_80_columns_and_line_up() {
        let mut page = Page::new(false);
        let text = "one of many words that go on and on ".repeat(8);
        page.row(Mark::Good, "ok", "Port mapping", &text);
        page.detail(&text);
        page.advice(&text);
        page.pair(Mark::Bad, "what", &text);
        page.item(&text);
        page.heading("the end");
        let shown = page.finish();
        assert!(!shown.contains('\x1b'));
        for line in shown.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
            assert_eq!(line, line.trim_end());
        }
        let mut lines = shown.lines();
        assert!(
            lines
                .next()
                .unwrap()
                .starts_with("ok       Port mapping  one of")
        );
        assert!(lines.next().unwrap().starts_with(&" ".repeat(TEXT)));
        assert!(shown.ends_with("\n\nThe end\n"));
    }

    #[test]
    fn colours_add_no_text() {
        let plain = |colours| {
            let mut page = Page {
                text: String::new(),
                colours,
            };
            page.heading("what was found");
            page.row(Mark::Bad, "problem", "UDP", "nothing gets through at all");
            page.detail("a detail");
            page.finish()
        };
        let mut coloured = plain(true);
        assert!(coloured.contains("\x1b[31mproblem"));
        for code in ["1", "2", "31", "0"] {
            coloured = coloured.replace(&format!("\x1b[{code}m"), "");
        }
        assert_eq!(coloured, plain(false));
    }
}

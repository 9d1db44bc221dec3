//! Icons, drawn on a grid of 24 with one stroke width. They say nothing to a screen reader: the
//! words beside them do.

use leptos::{prelude::*, svg};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Icon {
    Device,
    Browser,
    Terminal,
    Files,
    Page,
    Port,
    Bridge,
    Folder,
    File,
    Picture,
    Link,
    Download,
    Upload,
    Pause,
    Resume,
    Close,
    Check,
    Copy,
    Pencil,
    Trash,
    Plus,
    Key,
    Lock,
    Warning,
    Reload,
    HangUp,
    Person,
    Eye,
    EyeOff,
    Right,
}

impl Icon {
    /// As HTML, for what is drawn without a view.
    pub(crate) fn markup(self) -> String {
        let path = self.path();
        format!(
            "<svg class=icon viewBox='0 0 24 24' aria-hidden=true focusable=false><path d='{path}'/></svg>"
        )
    }

    fn path(self) -> &'static str {
        match self {
            Self::Device => "M5 4h14v7H5zM5 13h14v7H5zM8.5 7.5h.01M8.5 16.5h.01M12 7.5h4M12 16.5h4",
            Self::Browser => "M3.5 5h17v14h-17zM3.5 9h17M6.5 7h.01M9 7h.01",
            Self::Terminal => "M3.5 5h17v14h-17zM7 9.5l3 2.5-3 2.5M12.5 15H17",
            Self::Files => "M3.5 6.5h6l2 2.5h9v10h-17zM3.5 12h17",
            Self::Page => {
                "M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17zM3.5 12h17M12 3.5c2.5 2.5 3.5 5.3 \
                 3.5 8.5s-1 6-3.5 8.5c-2.5-2.5-3.5-5.3-3.5-8.5s1-6 3.5-8.5z"
            }
            Self::Port => "M8 3.5v4M16 3.5v4M5.5 7.5h13v4a6.5 6.5 0 0 1-13 0zM12 18v2.5",
            Self::Bridge => {
                "M6 9.5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5zM18 9.5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 \
                 0-5zM8.5 12h7"
            }
            Self::Folder => "M3.5 6.5h6l2 2.5h9v10h-17z",
            Self::File => "M6 3.5h8l4 4v13H6zM14 3.5v4h4",
            Self::Picture => "M4 5h16v14H4zM4 16l4.5-4.5 4 4 2.5-2.5 5 4.5M15.5 9h.01",
            Self::Link => {
                "M10 14a4 4 0 0 0 5.7 0l3-3A4 4 0 0 0 13 5.3l-1 1M14 10a4 4 0 0 0-5.7 0l-3 3A4 4 0 0 \
                 0 11 18.7l1-1"
            }
            Self::Download => "M12 4v11M7.5 11 12 15.5 16.5 11M4.5 19.5h15",
            Self::Upload => "M12 15.5V4.5M7.5 9 12 4.5 16.5 9M4.5 19.5h15",
            Self::Pause => "M8.5 5.5v13M15.5 5.5v13",
            Self::Resume => "M8 5.5v13l10.5-6.5z",
            Self::Close => "M6 6l12 12M18 6 6 18",
            Self::Check => "M4.5 12.5 10 18 19.5 7",
            Self::Copy => "M9 9h11v11H9zM15 9V4H4v11h5",
            Self::Pencil => "M4 20l1-4.5L16 4.5 19.5 8l-11 11zM13.5 7l3.5 3.5",
            Self::Trash => "M4.5 6.5h15M9 6.5V4h6v2.5M6.5 6.5l1 14h9l1-14M10 10.5v6M14 10.5v6",
            Self::Plus => "M12 5v14M5 12h14",
            Self::Key => "M8 11a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9zM11.2 12.3 20 3.5M16.5 7l3 3",
            Self::Lock => "M5.5 11h13v9.5h-13zM8 11V8a4 4 0 0 1 8 0v3M12 15v2",
            Self::Warning => "M12 4 21 19.5H3zM12 10v4.5M12 17h.01",
            Self::Reload => "M19.5 12a7.5 7.5 0 1 1-2.2-5.3L19.5 9M19.5 4v5h-5",
            Self::HangUp => {
                "M3.5 14.5c4.7-4.7 12.3-4.7 17 0l-2.3 2.3-3.2-1.6v-2.4a10 10 0 0 0-6 0v2.4l-3.2 1.6z"
            }
            Self::Person => {
                "M12 4a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM4.5 20.5c.8-3.5 3.8-5.5 7.5-5.5s6.7 2 7.5 5.5"
            }
            Self::Eye => {
                "M2.5 12S6 5.5 12 5.5 21.5 12 21.5 12 18 18.5 12 18.5 2.5 12 2.5 12zM12 9a3 3 0 1 0 0 \
                 6 3 3 0 0 0 0-6z"
            }
            Self::EyeOff => {
                "M4 4l16 16M9.9 5.8A9 9 0 0 1 12 5.5c6 0 9.5 6.5 9.5 6.5a15 15 0 0 1-2.8 3.4M6.3 \
                 7.5A15 15 0 0 0 2.5 12S6 18.5 12 18.5a9 9 0 0 0 4-.9M10 10a3 3 0 0 0 4 4"
            }
            Self::Right => "M9 5.5 15.5 12 9 18.5",
        }
    }
}

pub(crate) fn icon(icon: Icon) -> impl IntoView {
    svg::svg()
        .attr("class", "icon")
        .attr("viewBox", "0 0 24 24")
        .attr("aria-hidden", "true")
        .attr("focusable", "false")
        .child(svg::path().attr("d", icon.path()))
}

/// The mark: a ring that goes out and comes back to where it began.
pub(crate) fn mark() -> impl IntoView {
    svg::svg()
        .attr("class", "mark")
        .attr("viewBox", "0 0 32 32")
        .attr("aria-hidden", "true")
        .attr("focusable", "false")
        .child((
            svg::path()
                .attr("class", "mark-out")
                .attr("d", "M7 22.5A11 11 0 1 1 25 22.5"),
            svg::path()
                .attr("class", "mark-back")
                .attr("d", "M25 22.5a11.2 11.2 0 0 1-12.5 4.3"),
            svg::circle()
                .attr("class", "mark-dot")
                .attr("cx", "16")
                .attr("cy", "16")
                .attr("r", "4"),
        ))
}

//! Names of files are bytes, and what a file system makes of them is its own: to one all bytes are
//! different names, another takes upper and lower case, or both forms of an accent, for one, and some
//! keep a name as another than was given. Whoever writes here asks, so that nothing arrives under a name
//! that it was not given.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::AsFd;

use icu_normalizer::ComposingNormalizerBorrowed;
use rustix::fs::{AtFlags, RenameFlags, renameat, renameat_with, statat};
use rustix::io::Errno;

/// The name under which a file system has what was asked for by another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OtherName(Option<OsString>);

impl OtherName {
    /// None: it is like no name in the folder.
    pub(crate) fn name(self) -> Option<OsString> {
        self.0
    }
}

impl fmt::Display for OtherName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(name) => write!(
                f,
                "to the file system there this is the same name as '{}'",
                name.to_string_lossy()
            ),
            None => f.write_str("the file system there keeps this under another name"),
        }
    }
}

/// How often a folder is listed before a name counts as not in it: a list that is made while the name is
/// given to another file may leave it out.
const LOOKS: usize = 3;

/// `name` leads to something in a folder: is that there under another name? `list` gives the names in the
/// folder, and `is_there` tells whether the name leads to something still. A folder that can not be listed
/// tells nothing.
pub(crate) fn other_than<L: Iterator<Item = io::Result<OsString>>>(
    list: impl Fn() -> io::Result<L>,
    name: &OsStr,
    is_there: impl Fn() -> bool,
) -> Option<OtherName> {
    for _ in 0..LOOKS {
        for found in list().ok()? {
            if found.ok()? == name {
                return None;
            }
        }
        if !is_there() {
            return None;
        }
    }
    let wanted = folded(name);
    let other = list().ok()?.flatten().find(|found| folded(found) == wanted);
    Some(OtherName(other))
}

/// What file systems take for one, of those that take two names for one.
fn folded(name: &OsStr) -> String {
    let lower = name.to_string_lossy().to_lowercase();
    let composed = ComposingNormalizerBorrowed::new_nfc().normalize(&lower);
    composed.trim_end_matches(['.', ' ']).to_owned()
}

/// Gives a file another name that nothing has yet; `AlreadyExists` if something has.
pub(crate) fn rename_new(
    from_dir: impl AsFd,
    from: &OsStr,
    to_dir: impl AsFd,
    to: &OsStr,
) -> io::Result<()> {
    match renameat_with(&from_dir, from, &to_dir, to, RenameFlags::NOREPLACE) {
        // Some file systems can not promise it.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            if statat(&to_dir, to, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            Ok(renameat(from_dir, from, to_dir, to)?)
        }
        renamed => Ok(renamed?),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn only_the_very_bytes_are_the_name() {
        let folder: [&[u8]; 4] = [b"Report.pdf", "caf\u{e9}".as_bytes(), b"caf\xe9", b"end"];
        let other = |name: &[u8]| {
            let list = || {
                let found = folder.map(|name| Ok(OsStr::from_bytes(name).to_owned()));
                Ok(found.into_iter())
            };
            other_than(list, OsStr::from_bytes(name), || true)
        };
        let is = |name: &[u8]| Some(OtherName(Some(OsStr::from_bytes(name).to_owned())));
        for name in folder {
            assert_eq!(other(name), None);
        }
        assert_eq!(other(b"report.PDF"), is(b"Report.pdf"));
        assert_eq!(other("cafe\u{301}".as_bytes()), is("caf\u{e9}".as_bytes()));
        assert_eq!(other(b"end. ."), is(b"end"));
        assert_eq!(other(b"nothing alike"), Some(OtherName(None)));
    }
}

//! Where `get` puts a file: one of its own, or something that takes bytes as they come.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::local_file::local;
use crate::failure::{Exit, Failure};

/// Links that are followed in search of a descriptor, as many as the kernel follows.
const MAX_LINKS: usize = 40;
const STDOUT: i32 = 1;

pub(super) enum Target {
    /// A file of this name, which is made whole or not at all.
    File(PathBuf),
    /// Written as the bytes come.
    Sink(Sink),
}

/// Standard output, another descriptor, or what is no file of its own, as a pipe is.
pub(super) struct Sink {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) is_stdout: bool,
}

impl Target {
    pub(super) fn of(path: &Path) -> Result<Self> {
        let descriptor = descriptor(path);
        if descriptor == Some(Descriptor::Own(STDOUT)) {
            return Ok(Self::Sink(Sink::stdout(path)?));
        }
        if let Some(Descriptor::Own(number)) = descriptor
            && let Some(file) = another(number)
        {
            return Ok(Self::Sink(Sink {
                file,
                path: path.to_owned(),
                is_stdout: false,
            }));
        }
        let Ok(there) = fs::metadata(path) else {
            return Ok(Self::File(path.to_owned()));
        };
        let kind = there.file_type();
        if kind.is_file() && descriptor.is_none() {
            Ok(Self::File(path.to_owned()))
        } else if kind.is_file() || kind.is_fifo() || kind.is_char_device() {
            Ok(Self::Sink(Sink::open(path)?))
        } else {
            let what = format!("{} is neither a file nor a pipe", path.display());
            bail!(Failure::new(Exit::Usage, what));
        }
    }
}

impl Sink {
    /// The descriptor itself, with its place in the file: opened anew it would begin at the file's start,
    /// over what others have written there.
    pub(super) fn stdout(path: &Path) -> Result<Self> {
        let own = io::stdout().as_fd().try_clone_to_owned();
        Ok(Self {
            file: own.map_err(|error| local(path, &error))?.into(),
            path: path.to_owned(),
            is_stdout: true,
        })
    }

    /// What can be had by its name only; what is in it is kept.
    fn open(path: &Path) -> Result<Self> {
        let file = File::options().append(true).open(path);
        Ok(Self {
            file: file.map_err(|error| local(path, &error))?,
            path: path.to_owned(),
            is_stdout: false,
        })
    }
}

/// What a path names that is no file of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Descriptor {
    /// Of this process, by its number.
    Own(i32),
    Other,
}

/// The descriptor that a path names, as `/dev/stdout` and `/proc/self/fd/3` do.
fn descriptor(path: &Path) -> Option<Descriptor> {
    let own = Path::new("/proc/self/fd").canonicalize().ok()?;
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let folder = match path.parent()? {
            folder if folder.as_os_str().is_empty() => Path::new("."),
            folder => folder,
        };
        let folder = folder.canonicalize().ok()?;
        let name = path.file_name()?;
        if folder == own {
            return Some(Descriptor::Own(name.to_str()?.parse().ok()?));
        }
        if folder.starts_with("/proc") && folder.ends_with("fd") {
            return Some(Descriptor::Other);
        }
        path = folder.join(fs::read_link(folder.join(name)).ok()?);
    }
    None
}

/// A descriptor of this process once more, with its place in the file, where the kernel gives it.
#[cfg(target_os = "linux")]
fn another(number: i32) -> Option<File> {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let process = pidfd_open(getpid(), PidfdFlags::empty()).ok()?;
    let file = pidfd_getfd(process, number, PidfdGetfdFlags::empty()).ok()?;
    Some(file.into())
}

#[cfg(not(target_os = "linux"))]
fn another(_: i32) -> Option<File> {
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_descriptor_is_known_by_whatever_leads_to_it() {
        for (path, number) in [
            ("/dev/stdout", 1),
            ("/dev/stderr", 2),
            ("/dev/fd/7", 7),
            ("/proc/self/fd/1", 1),
        ] {
            let own = Some(Descriptor::Own(number));
            assert_eq!(descriptor(Path::new(path)), own, "{path}");
        }
        for path in ["/dev/shm/file", "/dev/null", "file", "/proc/self/fd", "/"] {
            assert_eq!(descriptor(Path::new(path)), None, "{path}");
        }
        let other = format!("/proc/{}/fd/1", std::os::unix::process::parent_id());
        assert_eq!(descriptor(Path::new(&other)), Some(Descriptor::Other));
        let dir = tempfile::tempdir().unwrap();
        let (link, round) = (dir.path().join("link"), dir.path().join("round"));
        symlink("/dev/stdout", &link).unwrap();
        symlink("round", &round).unwrap();
        assert_eq!(descriptor(&link), Some(Descriptor::Own(STDOUT)));
        assert_eq!(descriptor(&round), None);
    }
}

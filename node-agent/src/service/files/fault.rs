//! Why an operation on files failed, as the caller is told.

use std::io;

use ringback_protocol::service::files::{FileAnswer, FileError};

/// Why an operation failed, for the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub(super) struct Fault {
    pub(super) code: FileError,
    pub(super) detail: String,
}

pub(super) type Outcome<T> = Result<T, Fault>;

impl Fault {
    pub(super) fn new(code: FileError, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        let code = match error.kind() {
            Kind::NotFound => FileError::NotFound,
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => FileError::NotAllowed,
            Kind::AlreadyExists => FileError::Exists,
            Kind::DirectoryNotEmpty => FileError::NotEmpty,
            Kind::IsADirectory => FileError::IsFolder,
            Kind::NotADirectory => FileError::NotFolder,
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => FileError::NoSpace,
            Kind::InvalidFilename => FileError::BadPath,
            _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                FileError::NotAllowed
            }
            _ => FileError::Io,
        };
        Self::new(code, error.to_string())
    }
}

impl From<rustix::io::Errno> for Fault {
    fn from(errno: rustix::io::Errno) -> Self {
        io::Error::from(errno).into()
    }
}

impl From<Fault> for FileAnswer {
    fn from(fault: Fault) -> Self {
        Self::failed(fault.code, fault.detail)
    }
}

//! The files of one agent: its key, its password, its configuration, and what it remembers.
//! Written whole or not at all; secrets readable by their owner only.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use ringback_protocol::SecretKey;
use ringback_protocol::secret::Psk;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::{Exit, Failure};

const KEY: &str = "key";
const PASSWORD: &str = "password";
/// Bytes that are written to see whether there is room: more than any file of settings has.
const PROBE: usize = 16 * 1024;

/// Where an agent's files are.
#[derive(Debug, Clone)]
pub(crate) struct Profile {
    config: PathBuf,
    state: PathBuf,
}

impl Profile {
    /// `dir` holds everything; without it the XDG directories do.
    pub(crate) fn open(dir: Option<&Path>) -> Result<Self> {
        let profile = match dir {
            Some(dir) => Self {
                config: dir.to_owned(),
                state: dir.to_owned(),
            },
            None => Self {
                config: xdg("XDG_CONFIG_HOME", ".config")?.join("ringback"),
                state: xdg("XDG_STATE_HOME", ".local/state")?.join("ringback"),
            },
        };
        for dir in [&profile.config, &profile.state] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .with_context(|| format!("can not make the directory {}", dir.display()))
                .map_err(|error| Failure::new(Exit::Usage, format!("{error:#}")))?;
        }
        Ok(profile)
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.config.join("config.toml")
    }

    /// Where what may be lost or made anew is kept.
    pub(crate) fn state_dir(&self) -> &Path {
        &self.state
    }

    /// The requests that were admitted.
    pub(crate) fn seen_requests(&self) -> PathBuf {
        self.state.join("seen-requests")
    }

    pub(crate) fn control_socket(&self) -> PathBuf {
        self.state.join("agent.sock")
    }

    /// Can files be written here? Asked before anything is done that can not be done twice.
    pub(crate) fn check_writable(&self) -> Result<()> {
        for dir in [&self.config, &self.state] {
            let written = tempfile::NamedTempFile::new_in(dir)
                .and_then(|mut file| file.write_all(&[0; PROBE]));
            written.map_err(|error| {
                Failure::new(
                    Exit::Usage,
                    format!("can not write into {}: {error}", dir.display()),
                )
            })?;
        }
        Ok(())
    }

    /// This agent's key; made on the first use.
    pub(crate) fn key(&self) -> Result<SecretKey> {
        if let Some(key) = self.existing_key()? {
            return Ok(key);
        }
        let key = SecretKey::from_seed(&rand::random());
        self.write_secret(KEY, key.seed().as_slice())?;
        Ok(key)
    }

    pub(crate) fn existing_key(&self) -> Result<Option<SecretKey>> {
        Ok(self
            .read_secret(KEY)?
            .map(|seed| SecretKey::from_seed(&seed)))
    }

    /// The key derived from the device's password, if it has one.
    pub(crate) fn password(&self) -> Result<Option<Psk>> {
        Ok(self.read_secret(PASSWORD)?.map(Psk::from_bytes))
    }

    pub(crate) fn set_password(&self, psk: &Psk) -> Result<()> {
        self.write_secret(PASSWORD, psk.as_bytes())
    }

    /// What a JSON file of the state directory holds; the default if there is none.
    pub(crate) fn load<T: DeserializeOwned + Default>(&self, name: &str) -> Result<T> {
        let path = self.state.join(name);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                Failure::new(
                    Exit::Usage,
                    format!(
                        "{} is damaged: {error}; repair or remove it",
                        path.display()
                    ),
                )
                .into()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
            Err(error) => Err(unreadable(&path, &error)),
        }
    }

    pub(crate) fn store<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let mut json = serde_json::to_vec_pretty(value)?;
        json.push(b'\n');
        write_atomically(&self.state.join(name), &json)
    }

    /// Held by the one process that may write this profile's files or be its agent.
    pub(crate) fn lock(&self, name: &str) -> Result<Option<File>> {
        let path = self.state.join(name);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| {
                Failure::new(
                    Exit::Usage,
                    format!("can not write {}: {error}", path.display()),
                )
            })?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => {
                Err(error).context(format!("can not lock {}", path.display()))
            }
        }
    }

    /// Held by whoever reads a file of the state directory to write it anew; waits for that. It lies on
    /// the directory itself, and leaves no file.
    pub(crate) fn wait_for_state(&self) -> Result<File> {
        let lock = || {
            let directory = File::open(&self.state)?;
            directory.lock()?;
            io::Result::Ok(directory)
        };
        lock().map_err(|error| {
            Failure::new(
                Exit::Usage,
                format!("can not lock {}: {error}", self.state.display()),
            )
            .into()
        })
    }

    fn read_secret(&self, name: &str) -> Result<Option<[u8; 32]>> {
        let path = self.config.join(name);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(&path, &error)),
        };
        let mode = file.metadata()?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            bail!(Failure::new(
                Exit::Usage,
                format!(
                    "{0} can be read by others (mode {mode:04o}); run: chmod 600 {0}",
                    path.display()
                ),
            ));
        }
        let mut text = String::new();
        file.read_to_string(&mut text)
            .map_err(|error| unreadable(&path, &error))?;
        let mut secret = [0; 32];
        hex::decode_to_slice(text.trim(), &mut secret).map_err(|_| {
            Failure::new(
                Exit::Usage,
                format!(
                    "{} is damaged: it should hold 64 hexadecimal digits; restore it from a backup",
                    path.display()
                ),
            )
        })?;
        Ok(Some(secret))
    }

    fn write_secret(&self, name: &str, secret: &[u8]) -> Result<()> {
        write_atomically(
            &self.config.join(name),
            format!("{}\n", hex::encode(secret)).as_bytes(),
        )
    }
}

/// Writes a file that is whole or not there, readable by its owner only.
pub(crate) fn write_atomically(path: &Path, contents: &[u8]) -> Result<()> {
    replace(path, contents).map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("can not write {}: {error}", path.display()),
        )
        .into()
    })
}

/// The same, for whoever has words of its own for what went wrong.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    // The temporary file has mode 0600 and is removed if anything fails.
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(contents)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(dir)?.sync_all()
}

fn unreadable(path: &Path, error: &io::Error) -> anyhow::Error {
    Failure::new(
        Exit::Usage,
        format!("can not read {}: {error}", path.display()),
    )
    .into()
}

fn xdg(variable: &str, fallback: &str) -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os(variable)
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute())
    {
        return Ok(dir);
    }
    let home = std::env::home_dir().filter(|home| home.is_absolute());
    let home =
        home.ok_or_else(|| Failure::new(Exit::Usage, "no home directory; give --dir DIR"))?;
    Ok(home.join(fallback))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> (tempfile::TempDir, Profile) {
        let dir = tempfile::tempdir().unwrap();
        let profile = Profile::open(Some(&dir.path().join("profile"))).unwrap();
        (dir, profile)
    }

    fn files(profile: &Profile) -> Vec<String> {
        fs::read_dir(&profile.state)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_key_is_made_once_for_its_owner_only() {
        let (_dir, profile) = profile();
        assert!(profile.existing_key().unwrap().is_none());
        let id = profile.key().unwrap().id();
        assert_eq!(profile.key().unwrap().id(), id);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&profile.config.join(KEY)), 0o600);
        assert_eq!(mode(&profile.config), 0o700);
        assert_eq!(files(&profile), [KEY]);
    }

    #[test]
    fn a_file_is_whole_or_as_it_was() {
        let (_dir, profile) = profile();
        let path = profile.state.join("note");
        write_atomically(&path, b"first").unwrap();
        // A directory can not be replaced by a file: the write fails at its very last step.
        let taken = profile.state.join("taken");
        fs::create_dir(&taken).unwrap();
        let error = write_atomically(&taken, b"second").unwrap_err();
        assert_eq!(Failure::exit_code(&error), Exit::Usage as u8);
        write_atomically(&path, b"third").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"third");
        let mut left = files(&profile);
        left.sort();
        assert_eq!(left, ["note", "taken"], "no temporary file");
    }

    #[test]
    fn one_holds_the_lock() {
        let (_dir, profile) = profile();
        let held = profile.lock("agent.lock").unwrap();
        assert!(held.is_some());
        assert!(profile.lock("agent.lock").unwrap().is_none());
        drop(held);
        assert!(profile.lock("agent.lock").unwrap().is_some());
    }
}

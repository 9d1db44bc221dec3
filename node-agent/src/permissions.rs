//! Who may read, write and execute the files that this program makes for people.

use std::sync::LazyLock;

/// What new files are denied, as this process was started with it.
static UMASK: LazyLock<u32> = LazyLock::new(|| {
    // It can only be asked for by setting it, which other threads would notice; Linux tells it.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let told = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    let told = told.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok());
    told.unwrap_or(0o022)
});

/// The mode of a copy of a file that has `mode`: never wider than the file, nor than this user has new
/// files. No more than the nine bits of POSIX are taken over.
pub(crate) fn of_new_file(mode: u16) -> u32 {
    u32::from(mode) & 0o777 & !*UMASK
}

/// The mode of a new file of which nothing is known.
pub(crate) fn unknown() -> u32 {
    of_new_file(0o666)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_never_wider_and_never_runs_as_somebody_else() {
        for mode in [0o600, 0o640, 0o755, 0o4755, 0o1777] {
            let copy = of_new_file(mode);
            assert_eq!(copy & !(u32::from(mode) & 0o777), 0, "{mode:o}: {copy:o}");
            assert_eq!(copy & 0o700, u32::from(mode) & 0o700 & !*UMASK);
        }
    }
}

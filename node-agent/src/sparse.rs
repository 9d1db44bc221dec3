//! Holes of files stay holes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// What is looked at at once: file systems have no smaller holes, as a rule.
const BLOCK: u64 = 4096;

/// Writes `bytes` at an offset into a file that has been given its size and holds zeros where nothing
/// was written: whole blocks of zeros are left out.
pub(crate) fn write_sparse(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    let mut rest = bytes;
    let mut at = at;
    while !rest.is_empty() {
        let empty = leading(rest, at, |block| block.iter().all(|byte| *byte == 0));
        (rest, at) = (&rest[empty..], at + empty as u64);
        let full = leading(rest, at, |block| block.iter().any(|byte| *byte != 0));
        file.write_all_at(&rest[..full], at)?;
        (rest, at) = (&rest[full..], at + full as u64);
    }
    Ok(())
}

/// Bytes at the beginning that are in blocks of one kind.
fn leading(bytes: &[u8], at: u64, is_kind: impl Fn(&[u8]) -> bool) -> usize {
    let mut length = 0;
    while length < bytes.len() {
        let to_border = BLOCK - (at + length as u64) % BLOCK;
        let end = bytes.len().min(length + to_border as usize);
        if !is_kind(&bytes[length..end]) {
            break;
        }
        length = end;
    }
    length
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn what_is_written_is_there_and_holes_take_no_room() {
        let file = tempfile::tempfile().unwrap();
        let mut expected = vec![0; 4 << 20];
        expected[5] = 1;
        expected[70_000..71_000].fill(2);
        *expected.last_mut().unwrap() = 3;
        file.set_len(expected.len() as u64).unwrap();
        for (number, piece) in expected.chunks(10_007).enumerate() {
            write_sparse(&file, piece, number as u64 * 10_007).unwrap();
        }
        let mut read = vec![7; expected.len()];
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read == expected);
        let taken = file.metadata().unwrap().blocks() * 512;
        assert!(taken < 256 << 10, "{taken}");
    }
}

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;

use ringback_protocol::SecretKey;
use ringback_protocol::service::files::{
    Entries, EntryKind, FileAnswer, FileError, FileRequest, MAX_OPERATIONS, MAX_OPERATIONS_EACH,
    MAX_WAITING_EACH, Op, Range,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use sha2::{Digest as _, Sha256};

use super::*;
use crate::service::Size;

/// A folder with neighbours that must not be reached.
struct Disk {
    dir: tempfile::TempDir,
    folder: Folder,
    uploads: Arc<Uploads>,
}

fn caller(number: u8) -> PeerId {
    SecretKey::from_seed(&[number; 32]).id()
}

impl Disk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("docs")).unwrap();
        fs::write(dir.path().join("secret"), "secret").unwrap();
        let mut uploads = Uploads::default();
        uploads.patience = Duration::from_millis(50);
        Self {
            folder: Folder::new(dir.path().join("docs"), true).unwrap(),
            dir,
            uploads: Arc::new(uploads),
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join("docs").join(name)
    }

    /// What a stream with this request and these bytes is answered; an error is a stream that
    /// broke off.
    async fn stream(
        &self,
        writable: bool,
        request: FileRequest,
        bytes: &[u8],
    ) -> std::io::Result<Vec<u8>> {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (recv, send) = tokio::io::split(theirs);
        let folder = Folder {
            writable,
            ..self.folder.clone()
        };
        let uploads = self.uploads.clone();
        let served =
            tokio::spawn(async move { serve(&uploads, caller(1), &folder, recv, send).await });
        let (mut read, mut write) = tokio::io::split(ours);
        let said = async {
            write.write_all(&request.encode()).await?;
            write.write_all(bytes).await?;
            write.shutdown().await
        };
        let mut answer = Vec::new();
        let (said, heard) = tokio::join!(said, read.read_to_end(&mut answer));
        // What is said behind the answer need not be heard.
        let _ = said;
        heard?;
        match served.await.unwrap() {
            Ok(()) => Ok(answer),
            Err(error) => Err(std::io::Error::other(error.to_string())),
        }
    }

    async fn ask(&self, request: FileRequest) -> FileAnswer {
        let answer = self.stream(true, request, b"").await.unwrap();
        FileAnswer::decode(&answer[2..]).unwrap()
    }

    async fn write(&self, request: FileRequest, bytes: &[u8]) -> FileAnswer {
        let answer = self.stream(true, request, bytes).await.unwrap();
        FileAnswer::decode(&answer[2..]).unwrap()
    }

    async fn read(&self, path: &str) -> Result<Vec<u8>, FileError> {
        let answer = self
            .stream(false, FileRequest::new(Op::Read, path), b"")
            .await
            .unwrap();
        let length = usize::from(u16::from_be_bytes([answer[0], answer[1]]));
        let (head, bytes) = answer[2..].split_at(length);
        match FileAnswer::decode(head).unwrap().code {
            None => Ok(bytes.to_vec()),
            Some(code) => Err(code),
        }
    }
}

fn part(path: &str, id: u8, size: u64, offset: u64) -> FileRequest {
    FileRequest {
        upload: Some([id; 16]),
        size: Some(size),
        offset,
        ..FileRequest::new(Op::Write, path)
    }
}

fn of(op: Op, path: &str, id: u8) -> FileRequest {
    FileRequest {
        upload: Some([id; 16]),
        ..FileRequest::new(op, path)
    }
}

#[tokio::test]
async fn nothing_leads_out_of_the_folder() {
    let disk = Disk::new();
    fs::create_dir(disk.path("sub")).unwrap();
    fs::write(disk.path("sub/inside"), "inside").unwrap();
    for (link, to) in [
        ("absolute", disk.dir.path().join("secret")),
        ("relative", "../secret".into()),
        ("up", "..".into()),
        ("root", "/".into()),
        ("loop", "loop".into()),
        ("good", "sub/inside".into()),
        ("goodsub", "sub".into()),
        ("around", "../docs/sub/inside".into()),
    ] {
        symlink(to, disk.path(link)).unwrap();
    }
    for path in [
        "absolute",
        "relative",
        "up/secret",
        "root/etc/passwd",
        "loop",
    ] {
        let refused = disk.read(path).await.unwrap_err();
        assert_eq!(refused, FileError::NotAllowed, "{path}");
    }
    // Back inside by way of the outside is outside.
    disk.read("around").await.unwrap_err();
    for path in [
        "../secret",
        "/etc/passwd",
        "sub/../../secret",
        "./sub",
        "sub//inside",
    ] {
        assert_eq!(disk.read(path).await, Err(FileError::BadPath), "{path}");
    }
    assert_eq!(disk.read("good").await, Ok(b"inside".to_vec()));
    assert_eq!(disk.read("goodsub/inside").await, Ok(b"inside".to_vec()));

    // Nor do changes.
    for path in ["up/new", "root/tmp/ringback-new", "absolute/new"] {
        let answer = disk.ask(FileRequest::new(Op::Mkdir, path)).await;
        assert!(answer.code.is_some(), "{path}");
        let answer = disk.write(part(path, 1, 1, 0), b"x").await;
        assert!(answer.code.is_some(), "{path}");
    }
    let rename = FileRequest {
        to: Some("up/stolen".into()),
        ..FileRequest::new(Op::Rename, "sub/inside")
    };
    assert_eq!(disk.ask(rename).await.code, Some(FileError::NotAllowed));
    // A link is removed and replaced itself, not what it points to.
    assert_eq!(
        disk.write(part("absolute", 1, 3, 0), b"new").await.code,
        None
    );
    assert_eq!(disk.ask(of(Op::Commit, "absolute", 1)).await.code, None);
    assert_eq!(
        disk.ask(FileRequest::new(Op::Remove, "relative"))
            .await
            .code,
        None
    );
    assert_eq!(fs::read(disk.path("absolute")).unwrap(), b"new");
    assert_eq!(fs::read(disk.dir.path().join("secret")).unwrap(), b"secret");
    let mut around: Vec<_> = fs::read_dir(disk.dir.path())
        .unwrap()
        .map(|found| found.unwrap().file_name())
        .collect();
    around.sort();
    assert_eq!(around, ["docs", "secret"]);
}

/// Somebody on the device swaps a folder for a link to the outside, again and again, while callers
/// go through it.
#[tokio::test]
async fn nor_does_a_race() {
    let disk = Disk::new();
    fs::create_dir(disk.path("sub")).unwrap();
    fs::write(disk.path("sub/secret"), "inside").unwrap();
    symlink("..", disk.path("link")).unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (one, two, stopped) = (disk.path("sub"), disk.path("link"), stop.clone());
    let swapping = std::thread::spawn(move || {
        let mut swaps = 0;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            renameat_with(CWD, &one, CWD, &two, RenameFlags::EXCHANGE).unwrap();
            swaps += 1;
        }
        swaps
    });
    let (mut inside, mut refused) = (0, 0);
    for round in 0..400 {
        match disk.read("sub/secret").await {
            Ok(bytes) => {
                assert_eq!(bytes, b"inside");
                inside += 1;
            }
            Err(_) => refused += 1,
        }
        let made = disk
            .ask(FileRequest::new(Op::Mkdir, format!("sub/new{round}")))
            .await;
        assert!(
            made.entry
                .is_none_or(|entry| entry.kind == EntryKind::Folder)
        );
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let swaps = swapping.join().unwrap();
    println!("{swaps} swaps: {inside} reads inside, {refused} refused");
    let around = fs::read_dir(disk.dir.path()).unwrap().count();
    assert_eq!(around, 2, "nothing was made outside");
}

#[tokio::test]
async fn devices_and_pipes_are_not_opened() {
    let disk = Disk::new();
    let pipe = disk.path("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    assert_eq!(disk.read("pipe").await, Err(FileError::NotAllowed));
    assert_eq!(disk.read("").await, Err(FileError::IsFolder));
}

#[tokio::test]
async fn parts_come_in_any_order_and_the_target_changes_at_once() {
    let disk = Disk::new();
    fs::write(disk.path("file"), "old").unwrap();
    let size = 10;
    assert_eq!(
        disk.write(part("file", 1, size, 6), b"ghij").await.code,
        None
    );
    assert_eq!(disk.write(part("file", 1, size, 0), b"ab").await.code, None);
    let there = disk.ask(of(Op::Stat, "file", 1)).await.received;
    assert_eq!(there, Some(vec![Range(0, 2), Range(6, 10)]));
    // Not all is there: not a byte of the target changes, and nothing of the upload is to be seen.
    let early = disk.ask(of(Op::Commit, "file", 1)).await;
    assert_eq!(early.code, Some(FileError::Incomplete));
    assert_eq!(disk.read("file").await, Ok(b"old".to_vec()));
    let list = disk
        .stream(false, FileRequest::new(Op::List, ""), b"")
        .await
        .unwrap();
    let head = 2 + usize::from(u16::from_be_bytes([list[0], list[1]]));
    let entries = Entries::decode(&list[head + 2..]).unwrap().entries;
    assert_eq!(entries.len(), 1, "{entries:?}");
    for found in fs::read_dir(disk.path("")).unwrap() {
        let name = found.unwrap().file_name().into_string().unwrap();
        if name != "file" {
            assert_eq!(disk.read(&name).await, Err(FileError::NotFound), "{name}");
        }
    }

    assert_eq!(
        disk.write(part("file", 1, size, 2), b"cdef").await.code,
        None
    );
    // What was read before is another version then.
    let before = disk
        .ask(FileRequest::new(Op::Stat, "file"))
        .await
        .entry
        .unwrap();
    let wrong = FileRequest {
        sha256: Some([0; 32]),
        ..of(Op::Commit, "file", 2)
    };
    assert_eq!(disk.ask(wrong).await.code, Some(FileError::NotFound));
    let right = FileRequest {
        sha256: Some(Sha256::digest(b"abcdefghij").into()),
        modified_ms: Some(1_500_000_000_123),
        ..of(Op::Commit, "file", 1)
    };
    let entry = disk.ask(right).await.entry.unwrap();
    assert_eq!((entry.size, entry.modified_ms), (10, 1_500_000_000_123));
    assert_eq!(disk.read("file").await, Ok(b"abcdefghij".to_vec()));
    let stale = FileRequest {
        version: Some(before.version),
        ..FileRequest::new(Op::Hash, "file")
    };
    assert_eq!(disk.ask(stale).await.code, Some(FileError::Changed));
    assert_eq!(fs::read_dir(disk.path("")).unwrap().count(), 1);
}

#[tokio::test]
async fn what_is_not_what_was_sent_never_takes_the_place() {
    let disk = Disk::new();
    fs::write(disk.path("file"), "old").unwrap();
    disk.write(part("file", 1, 3, 0), b"bad").await;
    let commit = FileRequest {
        sha256: Some(Sha256::digest(b"new").into()),
        ..of(Op::Commit, "file", 1)
    };
    assert_eq!(disk.ask(commit).await.code, Some(FileError::Mismatch));
    assert_eq!(disk.read("file").await, Ok(b"old".to_vec()));
    assert_eq!(fs::read_dir(disk.path("")).unwrap().count(), 1);

    // More than was said, an empty file, one that is there already, a folder.
    let more = disk.write(part("file", 1, 3, 0), b"four").await;
    assert_eq!(more.code, Some(FileError::BadRequest));
    assert_eq!(disk.write(part("empty", 1, 0, 0), b"").await.code, None);
    assert_eq!(disk.ask(of(Op::Commit, "empty", 1)).await.code, None);
    assert_eq!(disk.read("empty").await, Ok(vec![]));
    disk.write(part("file", 2, 1, 0), b"x").await;
    let keep = FileRequest {
        keep: true,
        ..of(Op::Commit, "file", 2)
    };
    assert_eq!(disk.ask(keep).await.code, Some(FileError::Exists));
    assert_eq!(disk.ask(of(Op::Abandon, "file", 2)).await.code, None);
    fs::create_dir(disk.path("folder")).unwrap();
    disk.write(part("folder", 3, 1, 0), b"x").await;
    let folder = disk.ask(of(Op::Commit, "folder", 3)).await;
    assert_eq!(folder.code, Some(FileError::IsFolder));
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_is_not_a_whole_one() {
    let disk = Disk::new();
    // More than the queue and the pipe hold, so that reading stops in the middle.
    let size = 8 << 20;
    fs::write(disk.path("file"), vec![1; size]).unwrap();
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let (recv, send) = tokio::io::split(theirs);
    let folder = Folder::new(disk.path(""), false).unwrap();
    let uploads = disk.uploads.clone();
    let served = tokio::spawn(async move { serve(&uploads, caller(1), &folder, recv, send).await });
    let (mut read, mut write) = tokio::io::split(ours);
    let request = FileRequest::new(Op::Read, "file").encode();
    write.write_all(&request).await.unwrap();
    read.read_exact(&mut [0; 1000]).await.unwrap();
    fs::write(disk.path("file"), vec![2; size]).unwrap();
    tokio::io::copy(&mut read, &mut tokio::io::sink())
        .await
        .unwrap();
    served.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn only_what_is_writable_is_written() {
    let disk = Disk::new();
    fs::write(disk.path("file"), "old").unwrap();
    let to = Some("other".to_owned());
    for request in [
        part("file", 1, 1, 0),
        of(Op::Commit, "file", 1),
        of(Op::Abandon, "file", 1),
        FileRequest::new(Op::Mkdir, "new"),
        FileRequest::new(Op::Remove, "file"),
        FileRequest {
            to,
            ..FileRequest::new(Op::Rename, "file")
        },
    ] {
        let answer = disk.stream(false, request.clone(), b"").await.unwrap();
        let answer = FileAnswer::decode(&answer[2..]).unwrap();
        assert_eq!(answer.code, Some(FileError::ReadOnly), "{request:?}");
        assert!(!answer.writable);
    }
    assert_eq!(fs::read_dir(disk.path("")).unwrap().count(), 1);
}

#[tokio::test]
async fn folders_are_made_renamed_and_removed() {
    let disk = Disk::new();
    let made = disk
        .ask(FileRequest::new(Op::Mkdir, "a"))
        .await
        .entry
        .unwrap();
    assert_eq!(made.kind, EntryKind::Folder);
    let again = disk.ask(FileRequest::new(Op::Mkdir, "a")).await;
    assert_eq!(again.code, Some(FileError::Exists));
    fs::write(disk.path("a/file"), "x").unwrap();
    let full = disk.ask(FileRequest::new(Op::Remove, "a")).await;
    assert_eq!(full.code, Some(FileError::NotEmpty));
    fs::write(disk.path("there"), "y").unwrap();
    for (to, code) in [("there", Some(FileError::Exists)), ("moved", None)] {
        let rename = FileRequest {
            to: Some(to.into()),
            ..FileRequest::new(Op::Rename, "a/file")
        };
        assert_eq!(disk.ask(rename).await.code, code);
    }
    assert_eq!(fs::read(disk.path("there")).unwrap(), b"y");
    assert_eq!(disk.ask(FileRequest::new(Op::Remove, "a")).await.code, None);
    let root = disk.ask(FileRequest::new(Op::Remove, "")).await;
    assert_eq!(root.code, Some(FileError::BadPath));
}

#[tokio::test]
async fn a_name_that_is_no_text_is_listed_as_it_is() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let disk = Disk::new();
    let latin = [&b"caf\xe8"[..], b"caf\xe9"];
    for name in latin {
        fs::write(disk.path("").join(OsStr::from_bytes(name)), name).unwrap();
    }
    fs::create_dir(disk.path("").join(OsStr::from_bytes(b"\xff"))).unwrap();
    let list = disk
        .stream(false, FileRequest::new(Op::List, ""), b"")
        .await
        .unwrap();
    let head = 2 + usize::from(u16::from_be_bytes([list[0], list[1]]));
    let mut entries = Entries::decode(&list[head + 2..]).unwrap().entries;
    entries.sort_by_key(|entry| entry.name_as_bytes().to_owned());
    let told: Vec<_> = entries
        .iter()
        .map(|entry| (entry.name_as_bytes(), entry.kind_here()))
        .collect();
    let (file, folder) = (EntryKind::File, EntryKind::Folder);
    assert_eq!(
        told,
        [(latin[0], file), (latin[1], file), (b"\xff", folder)]
    );
    // Who knows text only sees that there is something.
    assert_eq!(entries[0].name, entries[1].name);
    assert!(entries.iter().all(|entry| entry.kind == EntryKind::Other));
    let answer = disk.ask(FileRequest::of(Op::Hash, latin[1])).await;
    assert_eq!(answer.sha256, Some(Sha256::digest(latin[1]).into()));
    // Nor is a name of ours reached where upper and lower case are the same.
    fs::write(disk.path(".Ringback-Upload-x.part"), "x").unwrap();
    assert_eq!(
        disk.read(".Ringback-Upload-x.part").await,
        Err(FileError::NotFound)
    );
}

#[tokio::test]
async fn old_uploads_are_removed_when_their_folder_is_listed() {
    let disk = Disk::new();
    disk.write(part("file", 1, 3, 0), b"abc").await;
    disk.write(part("file", 2, 3, 0), b"abc").await;
    let mut files: Vec<_> = fs::read_dir(disk.path(""))
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    files.sort();
    assert_eq!(files.len(), 4);
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(8 * 24 * 3600);
    for file in &files[..2] {
        let file = fs::File::options().write(true).open(file).unwrap();
        file.set_modified(old).unwrap();
    }
    disk.stream(true, FileRequest::new(Op::List, ""), b"")
        .await
        .unwrap();
    let left = fs::read_dir(disk.path("")).unwrap().count();
    assert_eq!(left, 2, "one upload with its journal");
}

/// Opens a stream of a caller that asks for something.
async fn ask(disk: &Disk, number: u8, request: FileRequest) -> tokio::io::DuplexStream {
    let (mut ours, theirs) = tokio::io::duplex(64 * 1024);
    let (recv, send) = tokio::io::split(theirs);
    let (folder, uploads) = (disk.folder.clone(), disk.uploads.clone());
    tokio::spawn(async move { serve(&uploads, caller(number), &folder, recv, send).await });
    ours.write_all(&request.encode()).await.unwrap();
    ours
}

/// A file's bytes, of which each tells where it is.
fn numbered(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at % 251) as u8).collect()
}

/// What a stream has after the answer's head.
async fn body(stream: &mut tokio::io::DuplexStream) -> Vec<u8> {
    let length = stream.read_u16().await.unwrap();
    stream
        .read_exact(&mut vec![0; usize::from(length)])
        .await
        .unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

const SOON: Duration = Duration::from_secs(3);

/// Of four callers, too, that take all places there are. And who goes on reading gets all.
#[tokio::test]
async fn unread_reads_keep_nobody_out_and_lose_nothing() {
    let disk = Disk::new();
    let big = numbered(8 << 20);
    fs::write(disk.path("big"), &big).unwrap();
    fs::write(disk.path("small"), "small").unwrap();
    let mut held = Vec::new();
    for number in 0..MAX_OPERATIONS {
        let number = 2 + (number % 4) as u8;
        held.push(ask(&disk, number, FileRequest::new(Op::Read, "big")).await);
    }
    for _ in 0..MAX_OPERATIONS {
        held.push(ask(&disk, 2, FileRequest::new(Op::Read, "big")).await);
    }
    let small = tokio::time::timeout(SOON, disk.read("small")).await;
    assert_eq!(small, Ok(Ok(b"small".to_vec())));
    let list = disk.stream(false, FileRequest::new(Op::List, ""), b"");
    tokio::time::timeout(SOON, list).await.unwrap().unwrap();
    for stream in &mut held[60..70] {
        let got = tokio::time::timeout(SOON, body(stream)).await.unwrap();
        assert!(got == big, "{} bytes", got.len());
    }
}

#[tokio::test]
async fn an_upload_that_stands_still_holds_no_place_and_goes_on() {
    let disk = Disk::new();
    let whole = numbered(700_000);
    let size = whole.len() as u64;
    let mut held = Vec::new();
    for id in 0..MAX_OPERATIONS as u8 {
        let mut stream = ask(&disk, 2 + id % 4, part("file", id, size, 0)).await;
        stream.write_all(&whole[..300_000]).await.unwrap();
        held.push(stream);
    }
    let small = tokio::time::timeout(SOON, disk.write(part("small", 1, 5, 0), b"small")).await;
    assert_eq!(small.unwrap().code, None);
    for id in [0, 17, 63] {
        let stream = &mut held[usize::from(id)];
        stream.write_all(&whole[300_000..]).await.unwrap();
        stream.shutdown().await.unwrap();
        let length = stream.read_u16().await.unwrap();
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(FileAnswer::decode(&answer).unwrap().code, None);
        assert_eq!(disk.ask(of(Op::Commit, "file", id)).await.code, None);
        assert!(fs::read(disk.path("file")).unwrap() == whole);
    }
}

#[tokio::test]
async fn what_is_no_request_is_answered_and_what_is_no_frame_ends_the_stream() {
    let disk = Disk::new();
    let said = async |bytes: &[u8]| {
        let mut answer = Vec::new();
        let served = serve(&disk.uploads, caller(1), &disk.folder, bytes, &mut answer).await;
        served.map(|()| FileAnswer::decode(&answer[2..]).unwrap().code)
    };
    let bad = Some(FileError::BadRequest);
    assert_eq!(said(&[0, 3, 0x81, 0xff, 0xff]).await.unwrap(), bad);
    assert_eq!(said(&[0, 2, 0x82, 0xa0]).await.unwrap(), bad);
    let later = FileRequest::new(Op::from("sing"), "").encode();
    assert_eq!(said(&later).await.unwrap(), bad);
    // 16 KiB and a byte.
    said(&[0x40, 0x01, 0x81]).await.unwrap_err();
    said(&[]).await.unwrap_err();
}

#[tokio::test]
async fn one_caller_has_only_so_many_operations_under_way() {
    let disk = Disk::new();
    fs::write(disk.path("big"), numbered(1 << 20)).unwrap();
    let mut held = Vec::new();
    for _ in 0..MAX_OPERATIONS_EACH + MAX_WAITING_EACH {
        held.push(ask(&disk, 1, FileRequest::new(Op::Read, "big")).await);
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(disk.read("big").await, Err(FileError::TooMany));
    drop(held);
}

/// Bytes that the disk has free.
fn free(disk: &Disk) -> u64 {
    let free = rustix::fs::statvfs(disk.dir.path()).unwrap();
    free.f_bavail * free.f_frsize
}

#[tokio::test]
async fn an_upload_takes_what_has_come_and_a_margin_stays() {
    let disk = Disk::new();
    let before = free(&disk);
    // Three quarters of what may be taken, however full the disk is that the tests run on.
    let size = before.saturating_sub(1 << 30) / 4 * 3;
    let most = part("file", 1, size, 0);
    let stream = ask(&disk, 1, most.clone()).await;
    // With a byte in it, it stays; and has what has come.
    let mut some = ask(&disk, 1, part("file", 2, size, 0)).await;
    some.write_all(b"x").await.unwrap();
    some.shutdown().await.unwrap();
    some.read_to_end(&mut Vec::new()).await.unwrap();
    assert!(free(&disk) > before / 2);
    drop(stream);
    assert_eq!(disk.write(most, b"").await.code, None);
    assert_eq!(fs::read_dir(disk.path("")).unwrap().count(), 2);
    let all = disk.write(part("file", 3, before - 4096, 0), b"x").await;
    assert_eq!(all.code, Some(FileError::NoSpace));
    assert!(all.detail.contains("are left free"), "{}", all.detail);
    assert_eq!(fs::read_dir(disk.path("")).unwrap().count(), 2);
}

#[tokio::test]
async fn a_folder_and_each_of_its_callers_have_their_quotas() {
    let mut disk = Disk::new();
    disk.folder.quota = Some(Size(10_000));
    disk.folder.caller_quota = Some(Size(4_000));
    fs::create_dir(disk.path("sub")).unwrap();
    fs::write(disk.path("sub/own"), vec![0; 5_000]).unwrap();
    let fits = disk.write(part("a", 1, 3_000, 0), &[1; 3_000]).await;
    assert_eq!(fits.code, None, "{fits:?}");
    assert_eq!(disk.ask(of(Op::Commit, "a", 1)).await.code, None);
    // Of this caller no more; told before a byte is sent, and forgotten.
    let over = disk.write(part("b", 1, 1_001, 0), b"").await;
    assert_eq!(over.code, Some(FileError::OverQuota));
    assert!(over.detail.contains("of one caller 3.9 KiB"), "{over:?}");
    // Nor of others more than the folder takes, all together.
    for (number, size, code) in [(2, 2_001, Some(FileError::OverQuota)), (2, 2_000, None)] {
        let mut stream = ask(&disk, number, part("c", 1, size, 0)).await;
        let _ = stream.write_all(&vec![2; size as usize]).await;
        let _ = stream.shutdown().await;
        let length = stream.read_u16().await.unwrap();
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(FileAnswer::decode(&answer).unwrap().code, code, "{size}");
    }
    // The same bytes twice are no way around.
    let again = disk.write(part("c", 1, 2_000, 0), &[2; 2_000]).await;
    assert_eq!(again.code, Some(FileError::OverQuota));
    // Room that somebody has made counts.
    fs::remove_file(disk.path("sub/own")).unwrap();
    fs::remove_file(disk.path("a")).unwrap();
    tokio::time::sleep(Duration::from_millis(2_050)).await;
    let room = disk.write(part("d", 1, 4_000, 0), &[4; 4_000]).await;
    assert_eq!(room.code, None, "{room:?}");
}

#[tokio::test]
async fn what_was_left_behind_is_swept_away_in_every_folder() {
    let disk = Disk::new();
    fs::create_dir(disk.path("sub")).unwrap();
    disk.write(part("sub/file", 1, 3, 0), b"abc").await;
    disk.write(part("sub/new", 1, 3, 0), b"abc").await;
    // As an agent that was killed leaves it.
    let nothing = disk.path("sub/.ringback-upload-dead.part");
    fs::write(&nothing, vec![0; 10]).unwrap();
    fs::write(nothing.with_extension("ranges"), [0; 8]).unwrap();
    symlink("..", disk.path("sub/up")).unwrap();
    sweep(&disk.folder).unwrap();
    let count = || fs::read_dir(disk.path("sub")).unwrap().count();
    assert_eq!(count(), 7);
    let age = |path: &std::path::Path, hours: u64| {
        let old = std::time::SystemTime::now() - Duration::from_secs(hours * 3600);
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(old).unwrap();
    };
    age(&nothing, 2);
    sweep(&disk.folder).unwrap();
    assert!(!nothing.exists());
    let files = fs::read_dir(disk.path("sub")).unwrap();
    let files: Vec<_> = files
        .map(|found| found.unwrap().path())
        .filter(|path| !path.is_symlink())
        .collect();
    for file in files {
        age(&file, 8 * 24);
    }
    sweep(&disk.folder).unwrap();
    assert_eq!(count(), 1, "the link");
}

//! The service that the demonstration reaches: a page, and a file big enough to measure with.

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    thread,
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

const BLOCK: usize = 1 << 20;
/// Length of the file in bytes.
pub(super) const FILE_LENGTH: u64 = 256 << 20;

/// An HTTP server on the loopback: `/` is a page, `/file` is 256 MiB of noise.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) addr: SocketAddr,
    pub(super) page: String,
}

impl Site {
    pub(super) fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .context("opening a port for the demonstration's web server")?;
        let addr = listener.local_addr()?;
        let page = format!(
            "<!doctype html>\n<title>Ringback</title>\n<h1>It called you back.</h1>\n\
             <p>This page is served by process {} on {addr} and came over a direct link.</p>\n\
             <p><a href=\"/file\">256 MiB to measure with</a></p>\n",
            std::process::id()
        );
        let served = page.clone();
        // Ends with the process, which holds nothing that needs more.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let page = served.clone();
                thread::spawn(move || drop(serve(stream, &page)));
            }
        });
        Ok(Self { addr, page })
    }
}

/// What the demonstration's device has in its files.
pub(super) fn write_files(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir.join("garden"))
        .with_context(|| format!("creating {}", dir.display()))?;
    let readme = "This folder is on the device.\n\nDownload what is in it, or upload something:\n\
                  the bytes go straight between this browser and the device.\n";
    fs::write(dir.join("readme.txt"), readme)?;
    fs::write(
        dir.join("garden/seeds.csv"),
        "plant,sown\nbeans,April\nkale,June\n",
    )?;
    fs::write(dir.join("garden/sunset.bmp"), sunset())?;
    let mut file = io::BufWriter::new(fs::File::create(dir.join("noise.bin"))?);
    write_file(&mut file)?;
    Ok(file.flush()?)
}

/// A picture, so that there is one to look at: a bitmap of 320 × 200 pixels.
fn sunset() -> Vec<u8> {
    let (width, height) = (320_u32, 200_u32);
    let size = width * height * 3;
    let mut picture = b"BM".to_vec();
    for number in [54 + size, 0, 54, 40, width, height] {
        picture.extend(number.to_le_bytes());
    }
    picture.extend([1, 0, 24, 0]);
    for number in [0, size, 2835, 2835, 0, 0] {
        picture.extend(number.to_le_bytes());
    }
    // From the bottom: the sea, then the sky, and the sun between them.
    for y in 0..height {
        for x in 0..width {
            let (dx, dy) = (x.abs_diff(160), y.abs_diff(80));
            let sky = (y * 160 / height) as u8;
            let [red, green, blue] = match y {
                _ if dx * dx + dy * dy < 1600 && y >= 80 => [255, 214, 120],
                0..80 => [30 + sky / 4, 60 + sky / 2, 90 + sky],
                _ => [250 - sky / 3, 150 - sky / 2, 90 + sky / 2],
            };
            picture.extend([blue, green, red]);
        }
    }
    picture
}

/// The SHA-256 of the file, computed from its source rather than from what was sent.
pub(super) fn file_hash() -> String {
    let mut hash = Hash::default();
    write_file(&mut hash).expect("hashing does not fail");
    hash.hex()
}

/// Where bytes are hashed and counted instead of kept.
#[derive(Debug, Default)]
pub(super) struct Hash {
    state: Sha256,
    pub(super) length: u64,
}

impl Hash {
    pub(super) fn hex(self) -> String {
        self.state
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

impl Write for Hash {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.state.update(bytes);
        self.length += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn serve(mut stream: TcpStream, page: &str) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut header = String::new();
        while reader.read_line(&mut header)? > 2 {
            header.clear();
        }
        match request.split(' ').nth(1) {
            Some("/") => {
                head(
                    &mut stream,
                    "200 OK",
                    "text/html; charset=utf-8",
                    page.len() as u64,
                )?;
                stream.write_all(page.as_bytes())?;
            }
            Some("/file") => {
                head(
                    &mut stream,
                    "200 OK",
                    "application/octet-stream",
                    FILE_LENGTH,
                )?;
                write_file(&mut stream)?;
            }
            _ => head(&mut stream, "404 Not Found", "text/plain", 0)?,
        }
    }
}

fn head(stream: &mut TcpStream, status: &str, kind: &str, length: u64) -> io::Result<()> {
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes())
}

/// One block of noise again and again, each time with another number in front, so that a block
/// lost, doubled or out of order changes the hash.
fn write_file(sink: &mut impl Write) -> io::Result<()> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = Vec::with_capacity(BLOCK);
    while block.len() < BLOCK {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block.extend_from_slice(&state.to_le_bytes());
    }
    for number in 0..FILE_LENGTH / BLOCK as u64 {
        block[..8].copy_from_slice(&number.to_le_bytes());
        sink.write_all(&block)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use xtask::http;

    use super::*;

    #[test]
    fn serves_the_page_and_nothing_else() {
        let site = Site::start().unwrap();
        let response = http::get(site.addr, "/").unwrap();
        assert_eq!((response.status, response.text()), (200, site.page));
        assert_eq!(http::get(site.addr, "/etc/passwd").unwrap().status, 404);
    }

    #[test]
    fn the_file_arrives_as_it_was_made() {
        let site = Site::start().unwrap();
        let mut hash = Hash::default();
        http::download(site.addr, "/file", &mut hash).unwrap();
        assert_eq!(hash.length, FILE_LENGTH);
        assert_eq!(hash.hex(), file_hash());
    }
}

//! A web site on a device's LAN: fixed answers, and a record of what was asked.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use anyhow::Result;

/// What a path answers.
#[derive(Clone, Debug)]
pub struct Answer {
    status: &'static str,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// A server for HTTP/1.1. Its thread ends with the process.
#[derive(Debug)]
pub struct LanSite {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Answer {
    pub fn html(body: impl Into<String>) -> Self {
        Self::of("text/html; charset=utf-8", body.into())
    }

    pub fn of(kind: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: "200 OK",
            headers: vec![("Content-Type".into(), kind.into())],
            body: body.into(),
        }
    }

    /// To another address.
    pub fn redirect(to: &str) -> Self {
        let mut answer = Self::of("text/plain", "");
        answer.status = "302 Found";
        answer.header("Location", to)
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

impl Asked {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

impl LanSite {
    /// On a free port of the loopback. What is not among `answers` (by path) is 404; a POST is
    /// answered with what was posted.
    pub fn start<'a>(answers: impl IntoIterator<Item = (&'a str, Answer)>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        Self::on(listener, answers)
    }

    /// The same on a listener of a namespace.
    pub fn on<'a>(
        listener: TcpListener,
        answers: impl IntoIterator<Item = (&'a str, Answer)>,
    ) -> Result<Self> {
        let address = listener.local_addr()?;
        let answers: HashMap<String, Answer> = answers
            .into_iter()
            .map(|(path, answer)| (path.to_owned(), answer))
            .collect();
        let answers = Arc::new(answers);
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let record = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answers, record) = (Arc::clone(&answers), Arc::clone(&record));
                // A visitor that goes away ends its own connection only.
                std::thread::spawn(move || serve(&stream, &answers, &record));
            }
        });
        Ok(Self { address, asked })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("not poisoned").clone()
    }
}

fn serve(
    stream: &TcpStream,
    answers: &HashMap<String, Answer>,
    record: &Mutex<Vec<Asked>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split(' ');
        let mut asked = Asked {
            method: words.next().unwrap_or_default().to_owned(),
            target: words.next().unwrap_or_default().to_owned(),
            ..Asked::default()
        };
        let mut length = 0;
        let mut chunked = false;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            let (name, value) = (name.to_ascii_lowercase(), value.trim().to_owned());
            if name == "content-length" {
                length = value.parse().unwrap_or(0);
            }
            chunked |= name == "transfer-encoding" && value == "chunked";
            asked.headers.push((name, value));
        }
        asked.body = if chunked {
            read_chunks(&mut reader)?
        } else {
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            body
        };
        let path = asked.target.split('?').next().unwrap_or_default();
        let answer = match answers.get(path) {
            _ if asked.method == "POST" => Answer::of("text/plain", asked.body.clone()),
            Some(answer) => answer.clone(),
            None => Answer {
                status: "404 Not Found",
                ..Answer::of("text/plain", "no such page")
            },
        };
        record.lock().expect("not poisoned").push(asked);
        let mut head = format!("HTTP/1.1 {}\r\n", answer.status);
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", answer.body.len()));
        writer.write_all(head.as_bytes())?;
        writer.write_all(&answer.body)?;
    }
}

fn read_chunks(reader: &mut BufReader<&TcpStream>) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim_end(), 16).map_err(std::io::Error::other)?;
        reader.by_ref().take(size).read_to_end(&mut body)?;
        reader.read_line(&mut String::new())?;
        if size == 0 {
            return Ok(body);
        }
    }
}

//! HTTP exchanges (PROTOCOL §20.4): a real agent, a browser's stream, and hosts of its LAN that
//! answer well, badly or not at all.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};

use anyhow::Result;
use ringback_protocol::service::http::{Header, HttpAnswer, HttpError, HttpRequest, HttpResponse};
use ringback_protocol::stream::Mode;
use ringback_tests::place::{Place, open, say, split_frame};
use ringback_tests::rtc_caller::{Browser, PATIENCE};

/// The head's lines and the body of a request.
type Heard = (Vec<String>, Vec<u8>);

/// A host that answers each request with these bytes, and tells of each that came.
fn host(answer: impl Into<Vec<u8>>) -> Result<(SocketAddr, Receiver<Heard>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let (sender, heard) = mpsc::channel();
    let answer = answer.into();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            // The other end's fault is what the test is about.
            if let Ok(told) = serve(&stream, &answer) {
                let _ = sender.send(told);
            }
        }
    });
    Ok((address, heard))
}

fn serve(mut stream: &TcpStream, answer: &[u8]) -> std::io::Result<Heard> {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let has = |what: &str| head.iter().any(|line| line.eq_ignore_ascii_case(what));
    let mut body = Vec::new();
    if has("transfer-encoding: chunked") {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim(), 16).expect("a chunk's size");
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk)?;
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                break;
            }
        }
    }
    stream.write_all(answer)?;
    Ok((head, body))
}

fn get(target: &str) -> HttpRequest {
    HttpRequest {
        method: "GET".into(),
        target: target.into(),
        headers: Vec::new(),
        body: false,
    }
}

/// One exchange: the head of the answer, and its body.
fn exchange(
    browser: &mut Browser,
    request: &HttpRequest,
    body: &[u8],
) -> Result<(HttpAnswer, Vec<u8>)> {
    let id = open(browser, "web", Mode::Http)?;
    say(browser, id, &[&request.encode()?, body].concat())?;
    let said = browser.read_to_end(id)?;
    let (head, body) = split_frame(&said)?;
    Ok((HttpAnswer::decode(head)?, body.to_vec()))
}

fn response(answer: HttpAnswer) -> HttpResponse {
    match answer {
        HttpAnswer::Response(response) => response,
        HttpAnswer::Failed(failed) => panic!("{failed:?}"),
    }
}

fn failure(answer: HttpAnswer) -> HttpError {
    match answer {
        HttpAnswer::Failed(failed) => failed.code,
        HttpAnswer::Response(response) => panic!("{response:?}"),
    }
}

fn place(address: SocketAddr) -> Result<Place> {
    Place::new(&[&["web", &format!("http://{address}")]])
}

#[test]
fn an_exchange_goes_to_the_exposed_host_with_its_own_headers_only() -> Result<()> {
    let (address, heard) = host(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\
         Keep-Alive: timeout=5\r\nX-End: 2\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n\
         5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n",
    )?;
    let place = place(address)?;
    let mut browser = place.browser()?;
    let request = HttpRequest {
        method: "POST".into(),
        target: "/a/b?c=%20".into(),
        headers: vec![
            Header::new("Host", "evil.example"),
            Header::new("Connection", "x-mine"),
            Header::new("X-Mine", "secret"),
            Header::new("Upgrade", "websocket"),
            Header::new("Accept", "*/*"),
        ],
        body: true,
    };
    let (answer, body) = exchange(&mut browser, &request, b"what was sent")?;
    let answer = response(answer);
    assert_eq!((answer.status, body), (200, b"hello!".to_vec()));
    let names: Vec<&str> = answer.headers.iter().map(Header::name).collect();
    assert_eq!(names, ["x-end", "set-cookie", "set-cookie"]);
    let (head, sent) = heard.recv_timeout(PATIENCE)?;
    assert_eq!(head[0], "POST /a/b?c=%20 HTTP/1.1");
    assert_eq!(sent, b"what was sent");
    let mut lines: Vec<String> = head[1..].iter().map(|line| line.to_lowercase()).collect();
    lines.sort();
    let expected = [
        "accept: */*",
        &format!("host: {address}"),
        "transfer-encoding: chunked",
    ];
    assert_eq!(lines, expected);
    Ok(())
}

#[test]
fn redirects_are_passed_on_and_not_followed() -> Result<()> {
    let (elsewhere, visited) = host("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    let answer =
        format!("HTTP/1.1 302 Found\r\nLocation: http://{elsewhere}/\r\nContent-Length: 0\r\n\r\n");
    let (address, _heard) = host(answer)?;
    let place = place(address)?;
    let mut browser = place.browser()?;
    let (answer, _) = exchange(&mut browser, &get("/"), b"")?;
    let answer = response(answer);
    assert_eq!(answer.status, 302);
    let location = format!("http://{elsewhere}/");
    let is_location = |header: &&Header| header.name() == "location";
    let header = answer.headers.iter().find(is_location).expect("a location");
    assert_eq!(header.value(), location.as_bytes());
    // Nor can the caller name another host.
    for target in [location.as_str(), "//evil/", "evil"] {
        let (answer, _) = exchange(&mut browser, &get(target), b"")?;
        if !target.starts_with('/') {
            assert_eq!(failure(answer), HttpError::BadRequest, "{target}");
        }
    }
    assert!(visited.try_recv().is_err());
    Ok(())
}

#[test]
fn large_bodies_go_both_ways() -> Result<()> {
    const BYTES: usize = 5_000_000;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n");
    let content: Vec<u8> = (0..BYTES).map(|i| (i / 251) as u8).collect();
    let (address, heard) = host([head.as_bytes(), &content].concat())?;
    let place = place(address)?;
    let mut browser = place.browser()?;
    let request = HttpRequest {
        method: "PUT".into(),
        body: true,
        ..get("/upload")
    };
    let (answer, body) = exchange(&mut browser, &request, &content)?;
    assert_eq!(response(answer).status, 200);
    assert!(body == content, "the response's body differs");
    let (_, sent) = heard.recv_timeout(PATIENCE)?;
    assert!(sent == content, "the request's body differs");
    Ok(())
}

#[test]
fn hosts_that_do_not_answer_well_are_told_apart() -> Result<()> {
    let huge = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(300_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(300));
    for (answer, code) in [
        (huge.as_str(), HttpError::TooLarge),
        (&many, HttpError::TooLarge),
        ("SSH-2.0-OpenSSH\r\n\r\n", HttpError::BadResponse),
        ("", HttpError::Unreachable),
        (
            "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
            HttpError::BadResponse,
        ),
    ] {
        let (address, _heard) = host(answer)?;
        let place = place(address)?;
        let mut browser = place.browser()?;
        let (answer, _) = exchange(&mut browser, &get("/"), b"")?;
        assert_eq!(failure(answer), code);
    }
    // A body that breaks off is no whole one.
    let (address, _heard) = host("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")?;
    let place = place(address)?;
    let mut browser = place.browser()?;
    let error = exchange(&mut browser, &get("/"), b"").unwrap_err();
    assert!(error.to_string().contains("ByPeer(1)"), "{error:?}");
    // Nobody listens; a service without HTTP; a service that is not exposed.
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let profile = &place.device.profile;
    profile.ok(["expose", "web", &format!("http://{closed}")]);
    for (service, code) in [
        ("web", "service_unreachable"),
        ("hello", "bad_mode"),
        ("nothing", "unknown_service"),
    ] {
        let error = open(&mut browser, service, Mode::Http).unwrap_err();
        assert_eq!(error.to_string(), code);
    }
    Ok(())
}

//! The local workerd: starts, is killed, comes back on the same port with the same state.

use std::{io, net::SocketAddr};

use xtask::{
    http,
    workerd::{Config, Workerd},
    wrangler::Wrangler,
};

/// A Durable Object that counts its requests in SQLite.
const COUNTER: &str = r#"
import { DurableObject } from "cloudflare:workers";
export class Counter extends DurableObject {
  async fetch() {
    this.ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS hits (n INTEGER)");
    this.ctx.storage.sql.exec("INSERT INTO hits VALUES (1)");
    const { n } = this.ctx.storage.sql.exec("SELECT count(*) AS n FROM hits").one();
    return new Response(`${this.env.GREETING} ${n}`);
  }
}
export default {
  fetch(request, env) { return env.COUNTERS.getByName("one").fetch(request); }
}
"#;

const WRANGLER: &str = r#"
name = "probe"
main = "index.js"
compatibility_date = "2026-04-25"
durable_objects.bindings = [{ name = "COUNTERS", class_name = "Counter" }]
migrations = [{ tag = "v1", new_sqlite_classes = ["Counter"] }]
"#;

fn fetch(addr: SocketAddr) -> io::Result<String> {
    http::get(addr, "/").map(|response| response.text())
}

struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn state_and_port_survive_kill_9() {
    let scratch = Scratch::new("kill9");
    let mut config = Config::script(&scratch.0, COUNTER).unwrap();
    config.wrangler = Wrangler::parse(WRANGLER).unwrap();
    config
        .bindings
        .insert("GREETING".into(), "hit \"quoted\"".into());
    let mut workerd = Workerd::start(config).unwrap();
    let addr = workerd.addr();
    assert!(fetch(addr).unwrap().contains("hit \"quoted\" 1"));
    assert!(workerd.ended().is_none());

    workerd.kill9();
    fetch(addr).expect_err("nothing listens after kill -9");
    workerd.restart().unwrap();
    assert_eq!(workerd.addr(), addr);
    assert!(fetch(addr).unwrap().contains("hit \"quoted\" 2"));
    workerd.restart().unwrap();
    assert!(fetch(addr).unwrap().contains("hit \"quoted\" 3"));

    drop(workerd);
    fetch(addr).expect_err("nothing listens after the drop");
}

#[test]
fn an_error_at_the_start_says_what_workerd_said() {
    let scratch = Scratch::new("broken");
    let config = Config::script(&scratch.0, "export default { this is no module }").unwrap();
    let error = format!("{:#}", Workerd::start(config).unwrap_err());
    assert!(error.contains("SyntaxError"), "{error}");
}

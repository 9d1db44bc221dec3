//! A transfer of 1 GiB in the page while the browser's host changes networks: it goes on in the
//! other one, and the file has the right hash.

use std::{net::Ipv4Addr, path::PathBuf};

use anyhow::{Result, ensure};
use ringback_tests::{
    agent::{self, Device},
    browser::Browser,
    case::Stage,
    lab::{Lab, kind::Kind},
    large_file::{LARGE, PATIENCE, hash, noise, until_part},
    npm,
    visit::{Visit, device_link},
};

const CAFE: Ipv4Addr = Ipv4Addr::new(81, 2, 69, 142);
const NAME: &str = "large.bin";

/// Both sites behind port-restricted NATs, a third one beside them, and a device with the service
/// `docs`.
struct Scene {
    stage: Stage,
    device: Device,
    docs: PathBuf,
}

impl Scene {
    fn set() -> Result<Self> {
        let cafe = Ipv4Addr::new(192, 168, 1, 77);
        let lab = Lab::builder().visitor("cafe", CAFE, cafe, Kind::PortRestricted);
        let stage = Stage::set_in(lab, npm::serve_beside_page)?;
        let docs = stage.lab().dir().join("docs");
        std::fs::create_dir(&docs)?;
        let device = stage.device()?;
        let mut expose = agent::command(stage.lab().device().host(), device.dir())?;
        expose.args(["expose", "docs", &format!("files:{}", docs.display())]);
        agent::run(expose.arg("--writable"))?;
        Ok(Self {
            stage,
            device,
            docs,
        })
    }

    fn visit(&self, browser: &Browser) -> Result<Visit> {
        let url = self.stage.registry().url();
        browser.permit(&url, "local-network-access")?;
        let link = device_link(&url, &self.device.id, &self.device.password);
        let visit = Visit::open(browser, &link)?;
        visit.call()?;
        visit.page.until_text("Direct")?;
        visit.service("docs")?;
        Ok(visit)
    }

    fn browser(&self) -> Result<Browser> {
        let host = self.stage.lab().caller().host();
        self.stage.registry().browser(host).start()
    }

    /// The browser's host leaves its network and appears in another one.
    fn go_to_cafe(&self) -> Result<()> {
        let lab = self.stage.lab();
        let address = Ipv4Addr::new(192, 168, 1, 78);
        lab.move_host(lab.caller(), &lab.visitors()[0], address)
    }
}

#[test]
fn a_download_goes_on_in_another_network() -> Result<()> {
    let scene = Scene::set()?;
    let expected = noise(&scene.docs.join(NAME), LARGE)?;
    let browser = scene.browser()?;
    let visit = scene.visit(&browser)?;
    visit.page.click("button", &format!("Download {NAME}"))?;
    until_part(&visit, NAME, 0.3)?;
    scene.go_to_cafe()?;
    visit.until_transfer(NAME, "verified", PATIENCE)?;
    let saved = browser.download(PATIENCE)?;
    ensure!(hash(&saved.path)? == expected, "the file is another");
    Ok(())
}

#[test]
fn an_upload_goes_on_in_another_network() -> Result<()> {
    let scene = Scene::set()?;
    let source = scene.stage.lab().dir().join(NAME);
    let expected = noise(&source, LARGE)?;
    let browser = scene.browser()?;
    let visit = scene.visit(&browser)?;
    visit.upload(&source)?;
    until_part(&visit, NAME, 0.3)?;
    scene.go_to_cafe()?;
    visit.until_transfer(NAME, "verified on the device", PATIENCE)?;
    ensure!(
        hash(&scene.docs.join(NAME))? == expected,
        "the file is another"
    );
    Ok(())
}

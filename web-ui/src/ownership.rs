//! The registry's owner on this page: signed in with the secret or not, and the device list as the
//! registry tells it meanwhile.

use futures::StreamExt;

use crate::{
    browser::{self, Keep},
    order::sorted,
    owner::{self, Device, News},
    state::{App, Owner, Presence},
};

/// Where the owner secret is kept for as long as the owner wants.
const SECRET: &str = "ringback.owner";

/// Signed in as this tab or this browser has kept it.
pub(crate) fn restore(app: App) {
    if let Some(secret) = Keep::Tab
        .read(SECRET)
        .or_else(|| Keep::Browser.read(SECRET))
    {
        app.owner.set(Owner::In { secret });
    }
}

pub(crate) fn sign_in(app: App, secret: String, stay: bool) {
    let keep = if stay { Keep::Browser } else { Keep::Tab };
    keep.write(SECRET, &secret);
    app.owner.set(Owner::In { secret });
}

pub(crate) fn sign_out(app: App) {
    Keep::Tab.remove(SECRET);
    Keep::Browser.remove(SECRET);
    app.owner.set(Owner::Out);
    app.devices.set(Vec::new());
}

/// Keeps the device list as the registry tells it, until the owner signs out.
pub(crate) async fn follow_presence(app: App, secret: String) {
    const PAUSES_S: [u32; 6] = [1, 2, 4, 8, 15, 30];
    const PING_MS: u32 = 25_000;
    let signed_in = || app.secret().as_deref() == Some(secret.as_str());
    let mut failed: usize = 0;
    while signed_in() {
        app.presence.set(if failed == 0 {
            Presence::Connecting
        } else {
            Presence::Lost
        });
        if let Ok(mut socket) = owner::Presence::open(&secret).await {
            loop {
                let pause = Box::pin(browser::sleep(PING_MS));
                match futures::future::select(socket.news.next(), pause).await {
                    futures::future::Either::Right(_) => socket.ping(),
                    futures::future::Either::Left((Some(News::Refused(failure)), _)) => {
                        if signed_in() {
                            app.notices.complain(&failure);
                            sign_out(app);
                        }
                        return;
                    }
                    futures::future::Either::Left((None | Some(News::Closed), _)) => break,
                    futures::future::Either::Left((Some(news), _)) => {
                        if !signed_in() {
                            return;
                        }
                        failed = 0;
                        app.presence.set(Presence::Live);
                        take(app, news);
                    }
                }
            }
        }
        app.presence.set(Presence::Lost);
        browser::sleep(PAUSES_S[failed.min(PAUSES_S.len() - 1)] * 1000).await;
        failed += 1;
    }
}

fn take(app: App, news: News) {
    app.devices.update(|devices| {
        match news {
            News::All(all) => *devices = all,
            News::One(device) => match devices.iter_mut().find(|known| known.id == device.id) {
                Some(known) => *known = device,
                None => devices.push(device),
            },
            News::Removed(id) => devices.retain(|device| device.id != id),
            News::Refused(_) | News::Closed => {}
        }
        *devices = in_order(std::mem::take(devices));
    });
}

/// Online first, then by name; revoked ones last.
pub(crate) fn in_order(devices: Vec<Device>) -> Vec<Device> {
    sorted(devices, |device| {
        (device.revoked, !device.online, device.title())
    })
}

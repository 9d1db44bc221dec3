//! The command line, as clap sees it. Doc comments here are help texts: no Markdown in them.

#![expect(
    rustdoc::bare_urls,
    rustdoc::broken_intra_doc_links,
    reason = "help texts"
)]

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::forward::Listen;
use crate::service::Size;

/// Reach any device on any LAN. You ring it through a registry; it checks your password and calls
/// you back directly.
#[derive(Debug, Parser)]
#[command(
    name = "ringback",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
#[command(
    after_help = "Exit codes: 0 done, 1 other, 2 usage or files, 3 registry, 4 device offline or unknown, \
5 refused, 6 too many attempts, 7 no path, 8 somebody is not who they should be, 130 Ctrl-C, \
143 asked to terminate."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// The heading of the options that every command has.
const COMMON: &str = "Common options";

#[derive(Debug, Args)]
pub struct Global {
    /// Directory for this agent's key, configuration and state [default: the XDG directories]
    #[arg(
        long,
        global = true,
        env = "RINGBACK_DIR",
        hide_env_values = true,
        value_name = "DIR",
        help_heading = COMMON
    )]
    pub dir: Option<PathBuf>,
    /// Say more; twice: debug logs with addresses
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = COMMON)]
    pub verbose: u8,
    /// Results as JSON on standard output, an error as the last line on standard error
    #[arg(long, global = true, help_heading = COMMON)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make this host a device that can be called, and stay so until stopped
    Up(Up),
    /// Be the UDP front of a registry: devices without a connection register here and are notified
    Beacon(Beacon),
    /// Name a service of this host or its LAN that callers may use
    Expose(Expose),
    /// Take a service away again
    Unexpose {
        /// The service's name
        name: String,
    },
    /// List the services that callers may use
    Services,
    /// Call a device and forward local ports to its services
    Connect(Connect),
    /// Call a device and connect its service to standard input and output
    Pipe(Pipe),
    /// Open a terminal on a device
    Shell(Shell),
    /// Fetch a file from a device
    Get(Get),
    /// Send a file to a device
    Send(Send),
    /// What the agent of this host is doing
    Status,
    /// Find out what stands between this host and its peers, and what to switch on
    Doctor(Doctor),
    /// The devices that this user knows by name
    Contacts {
        #[command(subcommand)]
        action: Option<ContactAction>,
    },
    /// The callers that this device remembers, which need no password, and those that are connected
    Callers {
        #[command(subcommand)]
        action: Option<CallerAction>,
    },
    /// This agent's ID
    Id,
}

/// Where the registry is.
#[derive(Debug, Clone, Args)]
pub struct RegistryArgs {
    /// The registry's address, as https://registry.example
    #[arg(
        long,
        env = "RINGBACK_REGISTRY",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub registry: Option<String>,
    /// PEM file of the CAs to trust for the registry, instead of the system's
    #[arg(
        long,
        env = "RINGBACK_REGISTRY_CA",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub registry_ca: Option<PathBuf>,
    /// STUN servers that tell the public address [default: the registry's list]
    #[arg(
        long,
        env = "RINGBACK_STUN",
        hide_env_values = true,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        value_parser = stun_server
    )]
    pub stun: Option<Vec<String>>,
}

/// `host:port`, which is looked up only when it is asked.
fn host_port(text: &str) -> Result<String, String> {
    stun_server(text).map_err(|_| format!("'{text}' is not HOST:PORT, as beacon.example:3478"))
}

/// The same of a STUN server.
fn stun_server(text: &str) -> Result<String, String> {
    let fits = text
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if fits {
        Ok(text.to_owned())
    } else {
        Err(format!("'{text}' is not HOST:PORT, as stun.example:3478"))
    }
}

#[derive(Debug, Args)]
pub struct Up {
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// The owner's code that lets this device into the registry, once
    #[arg(long, value_name = "CODE")]
    pub enroll: Option<String>,
    /// The name at the registry [default: the enrolment code's]
    #[arg(long)]
    pub name: Option<String>,
    /// Set the password that callers must give [default: keep it; a new one is made at first]
    #[arg(long, env = "RINGBACK_PASSWORD", hide_env_values = true)]
    pub password: Option<String>,
    /// The same from a file, or from a line of standard input (-): it shows in no list of processes
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// With a new password: callers that were remembered under the old one need none either
    #[arg(long)]
    pub keep_callers: bool,
    /// Take a password that can be guessed
    #[arg(long)]
    pub weak_password: bool,
    /// A fixed UDP port, for a static port mapping [default: any]
    #[arg(long, env = "RINGBACK_PORT", hide_env_values = true)]
    pub port: Option<u16>,
    /// Seconds between two keepalives, 1 to 120 [default: 25]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(1..=120))]
    pub keepalive_s: Option<u16>,
    /// Do not ask the router to forward this agent's ports
    #[arg(long)]
    pub no_port_mapping: bool,
    /// Do not answer requests from the LAN
    #[arg(long)]
    pub no_lan: bool,
    /// Direct paths only: links of this device never use a relay
    #[arg(long)]
    pub no_relay: bool,
    /// Hold no TCP connection: register at a beacon by UDP, and open HTTPS only when called
    #[arg(long)]
    pub udp_only: bool,
    /// The beacon to register at [default: the first of the registry's list that is online]
    #[arg(long, value_name = "[ID@]HOST:PORT", requires = "udp_only", value_parser = beacon_choice)]
    pub beacon: Option<BeaconChoice>,
    /// The shortest interval between keepalives when a longer one is searched for [default: 25]
    #[arg(long, value_name = "SECONDS", requires = "udp_only", value_parser = clap::value_parser!(u16).range(1..=600))]
    pub keepalive_floor_s: Option<u16>,
}

/// A beacon by its address, and by its ID where the registry's list does not have the address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeaconChoice {
    pub id: Option<ringback_protocol::PeerId>,
    /// `host:port`
    pub address: String,
}

fn beacon_choice(text: &str) -> Result<BeaconChoice, String> {
    let (id, address) = match text.split_once('@') {
        Some((id, address)) => (
            Some(id.parse().map_err(|error| format!("{error}"))?),
            address,
        ),
        None => (None, text),
    };
    Ok(BeaconChoice {
        id,
        address: host_port(address)?,
    })
}

/// The registry that a beacon belongs to, without what only calls need.
#[derive(Debug, Args)]
pub struct BeaconRegistryArgs {
    /// The registry's address, as https://registry.example
    #[arg(
        long,
        env = "RINGBACK_REGISTRY",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub registry: Option<String>,
    /// PEM file of the CAs to trust for the registry, instead of the system's
    #[arg(
        long,
        env = "RINGBACK_REGISTRY_CA",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub registry_ca: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Beacon {
    #[command(flatten)]
    pub registry: BeaconRegistryArgs,
    /// The owner's code for a beacon, once
    #[arg(long, value_name = "CODE")]
    pub enroll: Option<String>,
    /// The name at the registry [default: the enrolment code's]
    #[arg(long)]
    pub name: Option<String>,
    /// The UDP port, and with --relay the TCP port
    #[arg(long, default_value_t = 3478)]
    pub port: u16,
    /// Where others reach it [default: the address that the registry sees, and --port]
    #[arg(long, value_name = "HOST:PORT", value_parser = host_port)]
    pub public: Option<String>,
    /// Relay calls that find no direct path, too, instead of the registry
    #[arg(long)]
    pub relay: bool,
    /// Bytes a second that one call may use of the relay, both ways together
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20, requires = "relay", value_parser = clap::value_parser!(u32).range(16_384..))]
    pub relay_rate: u32,
    /// Bytes that are relayed in 24 hours at most [default: no limit]
    #[arg(long, value_name = "BYTES", requires = "relay")]
    pub relay_daily: Option<u64>,
    /// Devices that may be registered at a time
    #[arg(long, default_value_t = 65_536)]
    pub max_devices: usize,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples: ringback expose ssh 127.0.0.1:22
          ringback expose printer http://192.168.1.5
          ringback expose docs files:/srv/docs --writable --quota 10GiB
          ringback expose shell
          ringback expose dial")]
pub struct Expose {
    /// The name that callers use
    pub name: String,
    /// HOST:PORT, tcp://HOST:PORT, http://HOST[:PORT], https://HOST[:PORT], files:DIR,
    /// shell (a terminal on this host), or dial (have this host call other devices)
    /// [default: the name, if it is shell or dial]
    pub service: Option<String>,
    /// Of files: callers may change them, too
    #[arg(long)]
    pub writable: bool,
    /// Of writable files: callers may fill the folder up to this size, as 10GiB [default: a
    /// twentieth of the disk is left free, at most 1GiB]
    #[arg(long, value_name = "SIZE", requires = "writable")]
    pub quota: Option<Size>,
    /// The same of what one caller has brought
    #[arg(long, value_name = "SIZE", requires = "writable")]
    pub caller_quota: Option<Size>,
}

#[derive(Debug, Args)]
pub struct Target {
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// The device's password [default: asked for, unless the device remembers this caller]
    #[arg(long, env = "RINGBACK_PASSWORD", hide_env_values = true)]
    pub password: Option<String>,
    /// The same from a file, or from a line of standard input (-): it shows in no list of processes
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Ask the device to remember this caller, so that the next call needs no password
    #[arg(long)]
    pub remember: bool,
    /// Accept that the name now belongs to another key
    #[arg(long)]
    pub accept_new_key: bool,
    /// Do not ask the router to forward a port for this call
    #[arg(long)]
    pub no_port_mapping: bool,
    /// Do not look for the device on the LAN
    #[arg(long)]
    pub no_lan: bool,
    /// Direct paths only: fail rather than use a relay
    #[arg(long)]
    pub no_relay: bool,
}

#[derive(Debug, Args)]
pub struct Connect {
    /// A contact, a name at the registry, or a device ID (rb1…)
    pub device: String,
    #[command(flatten)]
    pub target: Target,
    /// Forward a local port to a service; may be given many times
    #[arg(short = 'L', value_name = "[BIND:]PORT:SERVICE", required = true)]
    pub listen: Vec<Listen>,
}

#[derive(Debug, Args)]
pub struct Pipe {
    /// The device (a contact, a name at the registry, or an ID) and its service, as nas:ssh
    #[arg(value_name = "DEVICE:SERVICE")]
    pub device: String,
    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Ends with the exit code of the shell. If the link breaks, the device is called again, and the
shell goes on where it was. ~. at the start of a line leaves it."
)]
pub struct Shell {
    /// The device (a contact, a name at the registry, or an ID), and the service's name if it is
    /// not shell
    #[arg(value_name = "DEVICE[:SERVICE]")]
    pub device: String,
    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Args)]
#[command(
    after_help = "The first part of PATH is the service's name: nas:docs/letters/may.pdf is letters/may.pdf in docs.
A transfer that was interrupted goes on where it was when the same command is given again."
)]
pub struct Get {
    /// The device, one of its files services, and a file there
    #[arg(value_name = "DEVICE:PATH")]
    pub from: OsString,
    /// Where to put it; - for standard output [default: the same name, here]
    #[arg(value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// Replace a file of that name that is another one
    #[arg(long)]
    pub overwrite: bool,
    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Args)]
#[command(
    after_help = "The first part of PATH is the service's name: nas:docs/letters/ puts the file into letters in docs.
A transfer that was interrupted goes on where it was when the same command is given again."
)]
pub struct Send {
    /// The file to send; - for standard input
    #[arg(value_name = "FILE")]
    pub from: PathBuf,
    /// The device, one of its files services, and a file or folder there
    #[arg(value_name = "DEVICE:PATH")]
    pub to: OsString,
    /// Replace a file of that name that is another one
    #[arg(long)]
    pub overwrite: bool,
    /// What is done without --overwrite; scripts of earlier versions have it
    #[arg(long, hide = true, conflicts_with = "overwrite")]
    pub keep: bool,
    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Ends with 0 if peers can be reached directly, 7 if only through the relay or not at all, \
3 if the registry is not reachable."
)]
pub struct Doctor {
    /// Call this device, and explain the path that the call takes [default: look at this host]
    pub device: Option<String>,
    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Subcommand)]
pub enum ContactAction {
    /// Note a device under a name
    Add {
        /// The name to call it by
        name: String,
        /// The device's ID (rb1…)
        id: String,
    },
    /// Forget a device
    Remove {
        /// The contact's name
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum CallerAction {
    /// Remember a caller by its ID
    Remember {
        /// The caller's ID (rb1…)
        id: String,
    },
    /// Take a caller's right to call without password away, and end its links
    Revoke {
        /// The caller's ID (rb1…)
        id: String,
    },
    /// End the links of a caller, whoever it is; it may call again
    Disconnect {
        /// The caller's ID (rb1…), its beginning, or the contact's name
        id: String,
    },
}

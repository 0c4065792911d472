//! `network` and `port`.

use std::io::Write;
use std::process::ExitCode;

use bollard::models::{
    EndpointIpamConfig, EndpointSettings, Ipam, IpamConfig, NetworkConnectRequest,
    NetworkCreateRequest, NetworkDisconnectRequest,
};
use serde_json::Value;

use super::line;
use crate::client::{encode, Client};
use crate::error::{CliError, Result};
use crate::table;

/// `network`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum NetworkCommand {
    /// Make a network
    Create(CreateArgs),
    /// List networks
    #[command(alias = "list")]
    Ls(ListArgs),
    /// Print everything known about networks, as JSON
    Inspect(Names),
    /// Remove networks
    #[command(alias = "remove")]
    Rm(Names),
    /// Remove the networks that no container is on
    Prune(PruneArgs),
    /// Put a container on a network
    Connect(ConnectArgs),
    /// Take a container off a network
    Disconnect(DisconnectArgs),
}

/// `network create`
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// Its kind
    #[arg(short, long, default_value = "bridge")]
    driver: String,
    /// Its addresses, such as 10.5.0.0/16
    #[arg(long)]
    subnet: Option<String>,
    /// The host's address on it
    #[arg(long)]
    gateway: Option<String>,
    /// No way out
    #[arg(long)]
    internal: bool,
    /// Option: KEY=VALUE
    #[arg(short, long)]
    opt: Vec<String>,
    /// Label: KEY[=VALUE]
    #[arg(long)]
    label: Vec<String>,
    /// Its name
    name: String,
}

/// `network ls`
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
}

/// Networks.
#[derive(Debug, clap::Args)]
pub(crate) struct Names {
    /// Names or ids
    #[arg(required = true)]
    names: Vec<String>,
}

/// `network prune`
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// Don't ask
    #[arg(short, long)]
    force: bool,
}

/// `network connect`
#[derive(Debug, clap::Args)]
pub(crate) struct ConnectArgs {
    /// Further name of the container there
    #[arg(long)]
    alias: Vec<String>,
    /// Fixed IPv4 address
    #[arg(long)]
    ip: Option<String>,
    /// Network
    network: String,
    /// Container
    container: String,
}

/// `network disconnect`
#[derive(Debug, clap::Args)]
pub(crate) struct DisconnectArgs {
    /// Network
    network: String,
    /// Container
    container: String,
}

/// `port`
#[derive(Debug, clap::Args)]
pub(crate) struct PortArgs {
    /// Container
    container: String,
    /// Only this port: PORT[/PROTOCOL]
    port: Option<String>,
}

pub(crate) async fn run(
    command: NetworkCommand,
    client: &Client,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    match command {
        NetworkCommand::Create(args) => create(args, client, out).await?,
        NetworkCommand::Ls(args) => list(&args, client, out).await?,
        NetworkCommand::Inspect(args) => {
            let mut found = Vec::new();
            for name in &args.names {
                found.push(
                    client
                        .get_json(&format!("/networks/{}", encode(name)))
                        .await?,
                );
            }
            let text = serde_json::to_string_pretty(&found).map_err(crate::client::broken)?;
            line(out, text)?;
        }
        NetworkCommand::Rm(args) => {
            for name in &args.names {
                client.api.remove_network(name).await?;
                line(out, name)?;
            }
        }
        NetworkCommand::Prune(args) => {
            if !args.force {
                return Err(CliError::usage(
                    "network prune removes all unused networks: say --force",
                ));
            }
            let none = None::<bollard::query_parameters::PruneNetworksOptions>;
            let pruned = client.api.prune_networks(none).await?;
            for name in pruned.networks_deleted.into_iter().flatten() {
                line(out, name)?;
            }
        }
        NetworkCommand::Connect(args) => connect(args, client).await?,
        NetworkCommand::Disconnect(args) => {
            let request = NetworkDisconnectRequest {
                container: args.container,
                force: None,
            };
            client
                .api
                .disconnect_network(&args.network, request)
                .await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(args: CreateArgs, client: &Client, out: &mut dyn Write) -> Result<()> {
    let pair = |word: &String| {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        (key.to_owned(), value.to_owned())
    };
    let pool = (args.subnet.is_some() || args.gateway.is_some()).then(|| IpamConfig {
        subnet: args.subnet,
        gateway: args.gateway,
        ..IpamConfig::default()
    });
    let made = client
        .api
        .create_network(NetworkCreateRequest {
            name: args.name,
            driver: Some(args.driver),
            internal: Some(args.internal),
            options: Some(args.opt.iter().map(pair).collect()),
            labels: Some(args.label.iter().map(pair).collect()),
            ipam: pool.map(|pool| Ipam {
                config: Some(vec![pool]),
                ..Ipam::default()
            }),
            ..NetworkCreateRequest::default()
        })
        .await?;
    line(out, made.id)
}

async fn list(args: &ListArgs, client: &Client, out: &mut dyn Write) -> Result<()> {
    let networks = client.get_json("/networks").await?;
    let text = |network: &Value, key: &str| network[key].as_str().unwrap_or_default().to_owned();
    let short = |network: &Value| text(network, "Id").chars().take(12).collect::<String>();
    let all = networks.as_array().into_iter().flatten();
    if args.quiet {
        for network in all {
            line(out, short(network))?;
        }
        return Ok(());
    }
    let rows: Vec<Vec<String>> = all
        .map(|network| {
            vec![
                short(network),
                text(network, "Name"),
                text(network, "Driver"),
                text(network, "Scope"),
            ]
        })
        .collect();
    table::print(out, &["NETWORK ID", "NAME", "DRIVER", "SCOPE"], &rows)
        .map_err(CliError::io("cannot write the output"))
}

async fn connect(args: ConnectArgs, client: &Client) -> Result<()> {
    let address = args.ip.map(|address| EndpointIpamConfig {
        ipv4_address: Some(address),
        ..EndpointIpamConfig::default()
    });
    let settings = EndpointSettings {
        aliases: (!args.alias.is_empty()).then_some(args.alias),
        ipam_config: address,
        ..EndpointSettings::default()
    };
    let request = NetworkConnectRequest {
        container: args.container,
        endpoint_config: Some(settings),
    };
    client.api.connect_network(&args.network, request).await?;
    Ok(())
}

pub(crate) async fn port(args: PortArgs, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    let path = format!("/containers/{}/json", encode(&args.container));
    let container = client.get_json(&path).await?;
    let wanted = args.port.map(|port| match port.contains('/') {
        true => port,
        false => format!("{port}/tcp"),
    });
    let ports = container["NetworkSettings"]["Ports"].as_object();
    let mut found = false;
    for (key, bindings) in ports.into_iter().flatten() {
        if wanted.as_ref().is_some_and(|wanted| wanted != key) {
            continue;
        }
        for binding in bindings.as_array().into_iter().flatten() {
            found = true;
            let text = |key: &str| binding[key].as_str().unwrap_or_default();
            let host = match text("HostIp") {
                ip if ip.contains(':') => format!("[{ip}]"),
                ip => ip.to_owned(),
            };
            let address = format!("{host}:{}", text("HostPort"));
            match &wanted {
                Some(_) => line(out, address)?,
                None => line(out, format!("{key} -> {address}"))?,
            }
        }
    }
    match wanted {
        Some(wanted) if !found => Err(CliError::Engine {
            status: 404,
            message: format!("No public port '{wanted}' published for {}", args.container),
        }),
        _ => Ok(ExitCode::SUCCESS),
    }
}

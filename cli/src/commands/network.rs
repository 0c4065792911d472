//! `network` and `port`.

use std::io::Write;
use std::process::ExitCode;

use bollard::models::{
    ConfigReference, EndpointIpamConfig, EndpointSettings, Ipam, IpamConfig, NetworkConnectRequest,
    NetworkCreateRequest, NetworkDisconnectRequest,
};
use serde_json::{json, Value};

use super::volume::{exit, filters, query};
use super::{line, ps};
use crate::client::{encode, Client};
use crate::error::{CliError, Result};
use crate::template;

/// `network`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum NetworkCommand {
    /// Make a network
    Create(CreateArgs),
    /// List networks
    #[command(alias = "list")]
    Ls(ListArgs),
    /// Print everything known about networks, as JSON
    Inspect(InspectArgs),
    /// Remove networks
    #[command(alias = "remove")]
    Rm(RemoveArgs),
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
    /// It has IPv4 addresses
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    ipv4: Option<bool>,
    /// It has IPv6 addresses, too
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    ipv6: Option<bool>,
    /// Who gives out its addresses
    #[arg(long, value_name = "DRIVER")]
    ipam_driver: Option<String>,
    /// Option of who gives out its addresses: KEY=VALUE
    #[arg(long, value_name = "KEY=VALUE")]
    ipam_opt: Vec<String>,
    /// Refused: of Swarm
    #[arg(long, hide_short_help = true)]
    ingress: bool,
    /// Of this host (local) or, refused, of a swarm
    #[arg(long)]
    scope: Option<String>,
    /// Only a configuration for networks to be made of
    #[arg(long)]
    config_only: bool,
    /// The network that has the configuration
    #[arg(long, value_name = "NETWORK")]
    config_from: Option<String>,
    /// Its addresses, such as 10.5.0.0/16 (repeatable: one of IPv4, one of IPv6)
    #[arg(long)]
    subnet: Vec<String>,
    /// The host's address on it (repeatable)
    #[arg(long)]
    gateway: Vec<String>,
    /// Which of its addresses are given out, such as 10.5.1.0/24 (repeatable)
    #[arg(long)]
    ip_range: Vec<String>,
    /// An address that is not given out: NAME=ADDRESS (repeatable)
    #[arg(long, value_name = "NAME=ADDRESS")]
    aux_address: Vec<String>,
    /// Containers may be put on it by hand; all are
    #[arg(long)]
    attachable: bool,
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
    /// Only those that pass: name=, id=, driver=, type=, label=, scope=, dangling=BOOL
    #[arg(short, long)]
    filter: Vec<String>,
    /// Go template for each line, or `json`
    #[arg(long)]
    format: Option<String>,
    /// Whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
}

/// `network inspect`
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// Go template instead of JSON
    #[arg(short, long)]
    format: Option<String>,
    /// Also what a swarm knows, of which there is none
    #[arg(short, long)]
    verbose: bool,
    /// Names or ids
    #[arg(required = true)]
    names: Vec<String>,
}

/// `network rm`
#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArgs {
    /// One that is not there is no error
    #[arg(short, long)]
    force: bool,
    /// Names or ids
    #[arg(required = true)]
    names: Vec<String>,
}

/// `network prune`
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// Only those that pass: label=, label!=, until=
    #[arg(long)]
    filter: Vec<String>,
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
    /// Option of the network's driver: KEY=VALUE
    #[arg(long, value_name = "KEY=VALUE")]
    driver_opt: Vec<String>,
    /// Further link-local address
    #[arg(long, value_name = "ADDRESS")]
    link_local_ip: Vec<String>,
    /// Fixed IPv4 address
    #[arg(long)]
    ip: Option<String>,
    /// Fixed IPv6 address
    #[arg(long)]
    ip6: Option<String>,
    /// A name for another container there: CONTAINER[:NAME]
    #[arg(long)]
    link: Vec<String>,
    /// The network with the highest one has the default route, from the next start on
    #[arg(long, allow_hyphen_values = true)]
    gw_priority: Option<i64>,
    /// Network
    network: String,
    /// Container
    container: String,
}

/// `network disconnect`
#[derive(Debug, clap::Args)]
pub(crate) struct DisconnectArgs {
    /// Also where the container does not answer
    #[arg(short, long)]
    force: bool,
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
        NetworkCommand::Inspect(args) => return inspect(&args, client, out).await,
        NetworkCommand::Rm(args) => return remove(&args, client, out).await,
        NetworkCommand::Prune(args) => prune(&args, client, out).await?,
        NetworkCommand::Connect(args) => connect(args, client).await?,
        NetworkCommand::Disconnect(args) => {
            let request = NetworkDisconnectRequest {
                container: args.container,
                force: Some(args.force),
            };
            client
                .api
                .disconnect_network(&args.network, request)
                .await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The pools that the options mean: what belongs to one is told by its family, as docker's options
/// stand beside each other.
fn pools(args: &CreateArgs) -> Result<Vec<IpamConfig>> {
    let mut pools: Vec<IpamConfig> = args
        .subnet
        .iter()
        .map(|subnet| IpamConfig {
            subnet: Some(subnet.clone()),
            ..IpamConfig::default()
        })
        .collect();
    let mut at = |address: &str| -> usize {
        let v6 = address.contains(':');
        let of = |pool: &IpamConfig| {
            let text = pool.subnet.as_ref().or(pool.gateway.as_ref());
            text.or(pool.ip_range.as_ref())
                .is_some_and(|text| text.contains(':') == v6)
        };
        pools.iter().position(of).unwrap_or_else(|| {
            pools.push(IpamConfig::default());
            pools.len() - 1
        })
    };
    let gateways: Vec<_> = args.gateway.iter().map(|text| (at(text), text)).collect();
    let ranges: Vec<_> = args.ip_range.iter().map(|text| (at(text), text)).collect();
    let mut reserved = Vec::new();
    for word in &args.aux_address {
        let (name, address) = word.split_once('=').ok_or_else(|| {
            CliError::usage(format!("invalid --aux-address {word:?}: want NAME=ADDRESS"))
        })?;
        reserved.push((at(address), name, address));
    }
    for (index, gateway) in gateways {
        pools[index].gateway = Some(gateway.clone());
    }
    for (index, range) in ranges {
        pools[index].ip_range = Some(range.clone());
    }
    for (index, name, address) in reserved {
        let all = pools[index].auxiliary_addresses.get_or_insert_default();
        all.insert(name.to_owned(), address.to_owned());
    }
    Ok(pools)
}

async fn create(args: CreateArgs, client: &Client, out: &mut dyn Write) -> Result<()> {
    let pair = |word: &String| {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        (key.to_owned(), value.to_owned())
    };
    let pools = pools(&args)?;
    let said = !pools.is_empty() || args.ipam_driver.is_some() || !args.ipam_opt.is_empty();
    let made = client
        .api
        .create_network(NetworkCreateRequest {
            name: args.name,
            driver: Some(args.driver),
            internal: Some(args.internal),
            attachable: Some(args.attachable),
            enable_ipv4: args.ipv4,
            enable_ipv6: args.ipv6,
            ingress: args.ingress.then_some(true),
            scope: args.scope,
            config_only: args.config_only.then_some(true),
            config_from: args.config_from.map(|network| ConfigReference {
                network: Some(network),
            }),
            options: Some(args.opt.iter().map(pair).collect()),
            labels: Some(args.label.iter().map(pair).collect()),
            ipam: said.then(|| Ipam {
                driver: args.ipam_driver,
                config: (!pools.is_empty()).then_some(pools),
                options: (!args.ipam_opt.is_empty())
                    .then(|| args.ipam_opt.iter().map(pair).collect()),
            }),
        })
        .await?;
    if !made.warning.is_empty() {
        eprintln!("WARNING: {}", made.warning);
    }
    line(out, made.id)
}

async fn list(args: &ListArgs, client: &Client, out: &mut dyn Write) -> Result<()> {
    let path = format!("/networks?filters={}", query(&filters(&args.filter)?)?);
    let networks = client.get_json(&path).await?;
    let text = |network: &Value, key: &str| network[key].as_str().unwrap_or_default().to_owned();
    let digits = if args.no_trunc { usize::MAX } else { 12 };
    let id = |network: &Value| text(network, "Id").chars().take(digits).collect::<String>();
    let all = networks.as_array().into_iter().flatten();
    if args.quiet {
        for network in all {
            line(out, id(network))?;
        }
        return Ok(());
    }
    let rows: Vec<Value> = all
        .map(|network| {
            let labels = network["Labels"].as_object().into_iter().flatten();
            let labels =
                labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
            let flag = |key: &str| (network[key] == true).to_string();
            let row = json!({
                "ID": id(network),
                "Name": text(network, "Name"),
                "Driver": text(network, "Driver"),
                "Scope": text(network, "Scope"),
                "CreatedAt": created_at(network),
                "IPv4": (network["EnableIPv4"] != false).to_string(),
                "IPv6": flag("EnableIPv6"),
                "Internal": flag("Internal"),
                "Labels": labels.collect::<Vec<_>>().join(","),
            });
            template::with_labels(row, &network["Labels"])
        })
        .collect();
    let columns = [
        ("NETWORK ID", "ID"),
        ("NAME", "Name"),
        ("DRIVER", "Driver"),
        ("SCOPE", "Scope"),
    ];
    ps::print(out, &rows, args.format.as_deref(), &columns)
}

fn created_at(network: &Value) -> String {
    let text = network["Created"].as_str().unwrap_or_default();
    let time = text
        .parse::<jiff::Timestamp>()
        .map(jiff::Timestamp::as_second);
    time.map_or_else(|_| text.to_owned(), crate::units::local_time)
}

async fn inspect(args: &InspectArgs, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    let mut found = Vec::new();
    let mut failed = false;
    for name in &args.names {
        match client
            .get_json(&format!(
                "/networks/{}?verbose={}",
                encode(name),
                args.verbose
            ))
            .await
        {
            Ok(network) => found.push(network),
            Err(error) => {
                eprintln!("hull: {error}");
                failed = true;
            }
        }
    }
    match args.format.as_deref() {
        Some("json") => line(out, Value::from(found))?,
        Some(format) => {
            for network in &found {
                line(out, template::render(format, network)?)?;
            }
        }
        None => {
            let text = serde_json::to_string_pretty(&found).map_err(crate::client::broken)?;
            line(out, text)?;
        }
    }
    Ok(exit(failed))
}

async fn remove(args: &RemoveArgs, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    let mut failed = false;
    for name in &args.names {
        match client.api.remove_network(name).await {
            Ok(()) => line(out, name)?,
            Err(error) => {
                let error = CliError::from(error);
                if args.force && error.is_not_found() {
                    continue;
                }
                eprintln!("hull: {error}");
                failed = true;
            }
        }
    }
    Ok(exit(failed))
}

async fn prune(args: &PruneArgs, client: &Client, out: &mut dyn Write) -> Result<()> {
    super::prune::confirm(args.force, "all networks that no container is on")?;
    let options = bollard::query_parameters::PruneNetworksOptions {
        filters: Some(filters(&args.filter)?),
    };
    let pruned = client.api.prune_networks(Some(options)).await?;
    for name in pruned.networks_deleted.into_iter().flatten() {
        line(out, name)?;
    }
    Ok(())
}

async fn connect(args: ConnectArgs, client: &Client) -> Result<()> {
    let fixed = args.ip.is_some() || args.ip6.is_some() || !args.link_local_ip.is_empty();
    let pair = |word: &String| {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        (key.to_owned(), value.to_owned())
    };
    let settings = EndpointSettings {
        aliases: (!args.alias.is_empty()).then_some(args.alias),
        links: (!args.link.is_empty()).then_some(args.link),
        gw_priority: args.gw_priority,
        driver_opts: (!args.driver_opt.is_empty())
            .then(|| args.driver_opt.iter().map(pair).collect()),
        ipam_config: fixed.then(|| EndpointIpamConfig {
            ipv4_address: args.ip,
            ipv6_address: args.ip6,
            link_local_ips: (!args.link_local_ip.is_empty()).then_some(args.link_local_ip),
        }),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: CreateArgs,
    }

    #[test]
    fn options_find_the_pool_of_their_family() {
        let line = "x --ipv6 --subnet fd00::/64 --subnet 10.5.0.0/16 --gateway 10.5.0.9 \
                    --ip-range fd00::/80 --aux-address a=10.5.0.3 --aux-address b=fd00::7 name";
        let line: Line = clap::Parser::parse_from(line.split_whitespace());
        let pools = pools(&line.args).unwrap();
        assert_eq!(pools.len(), 2);
        assert_eq!(pools[0].ip_range.as_deref(), Some("fd00::/80"));
        assert_eq!(pools[0].gateway, None);
        assert_eq!(pools[1].gateway.as_deref(), Some("10.5.0.9"));
        let reserved = pools[1].auxiliary_addresses.as_ref().unwrap();
        assert_eq!(reserved.len(), 1);
    }
}

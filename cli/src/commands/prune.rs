//! `container prune`, `system prune`, and the question before any prune.

use std::io::Write;
use std::process::ExitCode;

use hyper::Method;
use serde_json::{json, Value};

use super::{filters, line};
use crate::client::{empty, encode, read_json, Client};
use crate::error::{CliError, Result};
use crate::units::human_size;

/// `container prune`, `system prune`
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// Don't ask
    #[arg(short, long)]
    force: bool,
    /// system prune: also images with a name that no container has
    #[arg(short, long)]
    all: bool,
    /// system prune: volumes without a name too
    #[arg(long)]
    volumes: bool,
    /// Only what passes: until=24h, label=NAME
    #[arg(long)]
    filter: Vec<String>,
}

/// What is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Containers,
    All,
}

/// One call of a prune: path, what is counted, and where its names are.
struct Step {
    path: String,
    head: &'static str,
    key: &'static str,
}

fn steps(what: What, args: &PruneArgs) -> Result<Vec<Step>> {
    let until = |text: &String| text.starts_with("until=") || text == "until";
    if what == What::All && args.volumes && args.filter.iter().any(until) {
        // As docker, and before anything is removed: volumes have no time that it could mean.
        return Err(CliError::usage(
            "the \"until\" filter is not supported with \"--volumes\"",
        ));
    }
    let step = |object: &str, head, key, dangling: Option<bool>| -> Result<Step> {
        let mut wanted = filters(&args.filter)?;
        if let Some(dangling) = dangling {
            wanted.insert("dangling".to_owned(), vec![dangling.to_string()]);
        }
        let wanted = encode(&json!(wanted).to_string());
        Ok(Step {
            path: format!("/{object}/prune?filters={wanted}"),
            head,
            key,
        })
    };
    let mut steps = vec![step("containers", "Containers", "ContainersDeleted", None)?];
    if what == What::All {
        steps.push(step("networks", "Networks", "NetworksDeleted", None)?);
        if args.volumes {
            steps.push(step("volumes", "Volumes", "VolumesDeleted", None)?);
        }
        steps.push(step("images", "Images", "ImagesDeleted", Some(!args.all))?);
    }
    Ok(steps)
}

/// Asks before things are removed for good, as docker does; an answer that is not yes is an error.
pub(super) fn confirm(force: bool, what: &str) -> Result<()> {
    if force {
        return Ok(());
    }
    eprint!("WARNING! This will remove {what}.\nAre you sure you want to continue? [y/N] ");
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(CliError::io("cannot read the answer"))?;
    match answer.trim() {
        "y" | "Y" => Ok(()),
        _ => Err(CliError::Failed {
            status: 1,
            message: "nothing is removed: the answer was not 'y' (--force asks nothing)".to_owned(),
        }),
    }
}

/// The line about one removed object.
fn name_of(item: &Value) -> String {
    let image = |key: &str, word: &str| item[key].as_str().map(|name| format!("{word}: {name}"));
    image("Untagged", "untagged")
        .or_else(|| image("Deleted", "deleted"))
        .unwrap_or_else(|| item.as_str().unwrap_or_default().to_owned())
}

pub(crate) async fn prune(
    what: What,
    args: PruneArgs,
    client: &Client,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    let all_images = match args.all {
        true => "images that no container has",
        false => "images without a name",
    };
    let volumes = if args.volumes {
        ", volumes without a name that no container has"
    } else {
        ""
    };
    let warning = match what {
        What::Containers => "all containers that have ended".to_owned(),
        What::All => format!(
            "all containers that have ended, networks that no container is on{volumes} and {all_images}"
        ),
    };
    let steps = steps(what, &args)?;
    confirm(args.force, &warning)?;
    let mut bytes = 0;
    for step in steps {
        let answer = read_json(client.send(Method::POST, &step.path, empty()).await?).await?;
        let items = answer[step.key].as_array().cloned().unwrap_or_default();
        if !items.is_empty() {
            line(out, format!("Deleted {}:", step.head))?;
            for item in &items {
                line(out, name_of(item))?;
            }
            line(out, "")?;
        }
        bytes += answer["SpaceReclaimed"].as_i64().unwrap_or_default();
    }
    line(out, format!("Total reclaimed space: {}", human_size(bytes)))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_prune_has_its_steps() {
        let args = PruneArgs {
            force: true,
            all: false,
            volumes: true,
            filter: vec!["label=x".to_owned()],
        };
        let paths = |what| -> Vec<String> {
            let steps = steps(what, &args).unwrap();
            steps.into_iter().map(|step| step.path).collect()
        };
        assert_eq!(
            paths(What::Containers),
            ["/containers/prune?filters=%7B%22label%22%3A%5B%22x%22%5D%7D"]
        );
        assert_eq!(paths(What::All).len(), 4);
        let until = |volumes| PruneArgs {
            force: true,
            all: false,
            volumes,
            filter: vec!["until=24h".to_owned()],
        };
        assert!(steps(What::All, &until(true)).is_err());
        assert!(steps(What::All, &until(false)).is_ok());
    }
}

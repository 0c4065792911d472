//! `push` and `save`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use hyper::Method;

use super::files::{refuse_terminal, write_body};
use super::login::registry_auth;
use super::pull::with_tag;
use super::{line, platform};
use crate::client::{empty, encode, Client};
use crate::error::{CliError, Result};
use crate::progress::{self, To};

/// `push`
#[derive(Debug, clap::Args)]
pub(crate) struct PushArgs {
    /// All tags of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Print only the image's name
    #[arg(short, long)]
    quiet: bool,
    /// Only if the image is for this platform: OS/ARCH[/VARIANT]
    #[arg(long)]
    platform: Option<String>,
    /// Without effect: images are not signed by the Notary
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    disable_content_trust: Option<bool>,
    /// Name, with its registry
    image: String,
}

/// `save`
#[derive(Debug, clap::Args)]
pub(crate) struct SaveArgs {
    /// File to write instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only if the images are for this platform: OS/ARCH[/VARIANT]
    #[arg(long)]
    platform: Option<String>,
    /// Names or ids
    #[arg(required = true)]
    images: Vec<String>,
}

pub(crate) async fn push(args: PushArgs, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    let to = if args.quiet { To::Quiet } else { To::Stdout };
    check_name(&args.image, args.all_tags)?;
    let (name, tag) = match args.all_tags {
        true => (args.image.clone(), "?".to_owned()),
        false => {
            let full = with_tag(&args.image);
            let (name, tag) = full.rsplit_once(':').unwrap_or((&full, "latest"));
            (name.to_owned(), format!("?tag={}", encode(tag)))
        }
    };
    if !args.quiet {
        line(out, format!("The push refers to repository [{name}]"))?;
    }
    // The slashes of a name are the path's.
    let name: Vec<String> = name.split('/').map(encode).collect();
    let platform = platform::query("platform", args.platform.as_deref())?;
    let path = format!("/images/{}/push{tag}&{platform}", name.join("/"));
    let auth = registry_auth(&args.image).await?;
    progress::show(client.send_with_auth(Method::POST, &path, auth).await?, to).await?;
    if args.quiet {
        line(out, with_tag(&args.image))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn check_name(image: &str, all_tags: bool) -> Result<()> {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains('@') {
        return refused("cannot push a digest reference");
    }
    if all_tags && last.contains(':') {
        return refused("tag can't be used with --all-tags/-a");
    }
    Ok(())
}

/// The command line is well formed, but can't be done.
fn refused(text: &str) -> Result<()> {
    Err(CliError::Failed {
        status: 1,
        message: text.to_owned(),
    })
}

pub(crate) async fn save(args: SaveArgs, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    refuse_terminal(args.output.as_deref())?;
    let names: Vec<String> = args
        .images
        .iter()
        .map(|name| format!("names={}", encode(name)))
        .collect();
    let platform = platform::query("platform", args.platform.as_deref())?;
    let path = format!("/images/get?{}&{platform}", names.join("&"));
    let answer = client.send(Method::GET, &path, empty()).await?;
    write_body(answer, args.output.as_deref(), out).await?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_is_of_a_tag_or_of_all() {
        assert!(check_name("reg:5000/x:a", false).is_ok());
        assert!(check_name("reg:5000/x", true).is_ok());
        for (image, all) in [
            ("x@sha256:ab", false),
            ("reg/x:a@sha256:ab", true),
            ("x:a", true),
        ] {
            let error = check_name(image, all).unwrap_err();
            assert!(
                matches!(error, CliError::Failed { status: 1, .. }),
                "{image}"
            );
        }
    }
}

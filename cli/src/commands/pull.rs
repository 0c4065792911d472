//! `pull`.

use std::io::Write;
use std::process::ExitCode;

use hyper::Method;

use super::line;
use super::login::registry_auth;
use crate::client::{encode, Client};
use crate::error::{CliError, Result};
use crate::progress::{self, To};

/// `pull`
#[derive(Debug, clap::Args)]
pub(crate) struct PullArgs {
    /// Print only the image's name
    #[arg(short, long)]
    quiet: bool,
    /// Platform: OS/ARCH
    #[arg(long)]
    platform: Option<String>,
    /// All tags of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Without effect: signatures by the Notary are not checked
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    disable_content_trust: Option<bool>,
    /// Name, with an optional registry, tag or digest
    image: String,
}

pub(crate) async fn run(args: PullArgs, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    let to = if args.quiet { To::Quiet } else { To::Stdout };
    let name = with_tag(&args.image);
    if args.all_tags {
        if name == args.image {
            return Err(CliError::Failed {
                status: 1,
                message: "tag can't be used with --all-tags/-a".to_owned(),
            });
        }
        fetch(client, &args.image, args.platform.as_deref(), to).await?;
        line(out, &args.image)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !args.quiet && name != args.image {
        line(out, "Using default tag: latest")?;
    }
    pull(client, &args.image, args.platform.as_deref(), to).await?;
    line(out, name)?;
    Ok(ExitCode::SUCCESS)
}

/// Pulls an image and shows its progress.
pub(super) async fn pull(
    client: &Client,
    image: &str,
    platform: Option<&str>,
    to: To,
) -> Result<()> {
    fetch(client, &with_tag(image), platform, to).await
}

/// Pulls what a name means to the engine: without a tag, all of the repository.
async fn fetch(client: &Client, image: &str, platform: Option<&str>, to: To) -> Result<()> {
    let mut path = format!("/images/create?fromImage={}", encode(image));
    if let Some(platform) = platform {
        path.push_str(&format!("&platform={}", encode(platform)));
    }
    let auth = registry_auth(image).await?;
    progress::show(client.send_with_auth(Method::POST, &path, auth).await?, to).await?;
    Ok(())
}

/// The name with the tag that it means.
pub(super) fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_no_tag() {
        assert_eq!(with_tag("busybox"), "busybox:latest");
        assert_eq!(with_tag("localhost:5000/x"), "localhost:5000/x:latest");
        assert_eq!(with_tag("x:1"), "x:1");
        assert_eq!(with_tag("x@sha256:0"), "x@sha256:0");
    }
}

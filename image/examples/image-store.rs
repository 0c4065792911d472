//! The image store by hand: `image-store ROOT pull REFERENCE`, `load FILE`, `list`, `remove NAME`.

use hull_image::{Platform, Progress, ProgressEvent, RegistryConfig, RemoveOptions, Store};

struct Print;

impl Progress for Print {
    fn event(&self, event: ProgressEvent) {
        println!("{event:?}");
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [root, command, rest @ ..] = arguments.as_slice() else {
        return Err("usage: image-store ROOT COMMAND ...".into());
    };
    let store = Store::open(root.as_ref(), RegistryConfig::default())?;
    match (*command, rest) {
        ("pull", [name]) => {
            let image = store
                .pull(&name.parse()?, &Platform::default(), &Print)
                .await?;
            println!(
                "{} {:?} {:?}",
                image.id, image.repo_tags, image.repo_digests
            );
        }
        ("load", [path]) => {
            for loaded in store
                .load(tokio::fs::File::open(path).await?, None, &Print)
                .await?
            {
                println!("{} {:?}", loaded.image.id, loaded.names);
            }
        }
        ("list", []) => {
            for image in store.list().await? {
                println!("{} {:?} {} bytes", image.id, image.repo_tags, image.size);
            }
        }
        ("remove", [name]) => {
            println!("{:?}", store.remove(name, &RemoveOptions::default()).await?)
        }
        _ => return Err(format!("unknown command {command}").into()),
    }
    Ok(())
}

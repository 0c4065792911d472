//! Threads for work that goes at a client's pace.

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// How many clients are served at once by threads that wait for them; further ones wait without one.
/// The runtime has 512 for all that blocks, which clients that send nothing must not use up.
const AT_ONCE: usize = 128;

static PLACES: Semaphore = Semaphore::const_new(AT_ONCE);

/// Begins work that lasts as long as a client sends or takes bytes, once there is a place for it.
pub async fn transfer<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let place = PLACES.acquire().await;
    tokio::task::spawn_blocking(move || {
        let _place = place;
        work()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn clients_that_send_nothing_leave_threads_for_others() {
        let idle: Vec<_> = (0..600)
            .map(|_| {
                let (client, stream) = mpsc::channel::<()>();
                (
                    client,
                    tokio::spawn(transfer(move || stream.recv().is_err())),
                )
            })
            .collect();
        // All that can begin do so; the runtime takes some tasks at each turn.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let other = tokio::task::spawn_blocking(|| "done");
        let other = tokio::time::timeout(Duration::from_secs(60), other).await;
        assert_eq!(other.unwrap().unwrap(), "done");
        // Each comes to its end once its client is gone.
        for (client, started) in idle {
            drop(client);
            assert!(started.await.unwrap().await.unwrap());
        }
    }
}

//! The record store: one transactional file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::error::{EngineError, Result};
use crate::record::{Record, SCHEMA};

const META: TableDefinition<'_, &str, u32> = TableDefinition::new("meta");
const CONTAINERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("containers");
const SCHEMA_KEY: &str = "schema";
const WRITE: &str = "write a record";
/// Records are small and all in memory anyway.
const CACHE_BYTES: usize = 1 << 20;

type Table<'a> = redb::Table<'a, &'static str, &'static [u8]>;

/// An open store. Each write is on disk when the call returns.
#[derive(Debug, Clone)]
pub struct Store {
    path: Arc<Path>,
    /// `None` behind a failed write: a database that has seen one refuses all until it is opened
    /// anew.
    database: Arc<Mutex<Option<Database>>>,
}

fn failed<E>(what: &'static str) -> impl FnOnce(E) -> EngineError
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| EngineError::Store {
        what,
        source: Box::new(source),
    }
}

impl Store {
    /// Opens the store at `path`. It is made if it isn't there, but not in the place of one that is
    /// lost: where `containers` has the files of some, there was one.
    pub fn open(path: &Path, containers: &Path) -> Result<Self> {
        let database = match is_empty_or_missing(path)? {
            false => open_database(path)?,
            true if has_entries(containers) => return Err(lost(path)),
            true => make_database(path)?,
        };
        check_schema(&database, path.to_owned())?;
        Ok(Self {
            path: path.into(),
            database: Arc::new(Mutex::new(Some(database))),
        })
    }

    /// Every record. One that can't be decoded is an error, not a forgotten container.
    pub fn all(&self) -> Result<Vec<Record>> {
        self.with(all_records)
    }

    /// Writes a new record, as it is when its turn to be written has come.
    pub async fn put(&self, latest: impl FnOnce() -> Record + Send + 'static) -> Result<()> {
        self.write(WRITE, move |table| insert(table, &latest()))
            .await
    }

    /// Writes a record anew, unless it is removed. Of two who change it at once, the one who writes
    /// last writes what both have changed.
    pub async fn replace(
        &self,
        id: &str,
        latest: impl FnOnce() -> Record + Send + 'static,
    ) -> Result<()> {
        let id = id.to_owned();
        self.write(WRITE, move |table| {
            let is_there = table.get(id.as_str()).map_err(failed(WRITE))?.is_some();
            if is_there {
                insert(table, &latest())?;
            }
            Ok(())
        })
        .await
    }

    /// Forgets one record.
    pub async fn remove(&self, id: &str) -> Result<()> {
        let id = id.to_owned();
        let what = "remove a record";
        self.write(what, move |table| {
            table.remove(id.as_str()).map(|_| ()).map_err(failed(what))
        })
        .await
    }

    async fn write(
        &self,
        what: &'static str,
        change: impl FnOnce(&mut Table<'_>) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let store = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            store.with(|database| {
                let write = database.begin_write().map_err(failed(what))?;
                {
                    let mut table = write.open_table(CONTAINERS).map_err(failed(what))?;
                    change(&mut table)?;
                }
                write.commit().map_err(failed(what))
            })
        });
        written.await.map_err(failed(what))?
    }

    /// Does something with the database, and closes it if that fails.
    fn with<T>(&self, act: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        let mut place = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let database = match place.take() {
            Some(database) => database,
            None => open_database(&self.path)?,
        };
        let done = act(&database);
        if done.is_ok() {
            *place = Some(database);
        }
        done
    }
}

fn insert(table: &mut Table<'_>, record: &Record) -> Result<()> {
    let bytes = serde_json::to_vec(record).map_err(|source| EngineError::Json {
        what: "encode a container record",
        source,
    })?;
    table
        .insert(record.id.as_str(), bytes.as_slice())
        .map(|_| ())
        .map_err(failed(WRITE))
}

fn is_empty_or_missing(path: &Path) -> Result<bool> {
    match std::fs::metadata(path) {
        Ok(about) => Ok(about.len() == 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(EngineError::io("look at", path, error)),
    }
}

fn has_entries(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

fn lost(path: &Path) -> EngineError {
    let why = "it is empty or missing, and there are files of containers";
    damaged(path)(io::Error::other(why))
}

fn damaged<E>(path: &Path) -> impl FnOnce(E) -> EngineError + '_
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| EngineError::StoreDamaged {
        path: path.to_owned(),
        source: Box::new(source),
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn open_database(path: &Path) -> Result<Database> {
    builder().open(path).map_err(damaged(path))
}

fn make_database(path: &Path) -> Result<Database> {
    builder().create(path).map_err(damaged(path))
}

fn check_schema(database: &Database, path: PathBuf) -> Result<()> {
    let write = database.begin_write().map_err(failed("begin"))?;
    {
        let mut meta = write.open_table(META).map_err(failed("open its header"))?;
        let found = meta
            .get(SCHEMA_KEY)
            .map_err(failed("read its header"))?
            .map(|v| v.value());
        match found {
            Some(found) if found > SCHEMA => {
                return Err(EngineError::StoreTooNew {
                    path,
                    found,
                    known: SCHEMA,
                });
            }
            Some(_) => {}
            None => {
                meta.insert(SCHEMA_KEY, SCHEMA)
                    .map_err(failed("write its header"))?;
            }
        }
        write
            .open_table(CONTAINERS)
            .map_err(failed("make its table"))?;
    }
    write.commit().map_err(failed("commit"))
}

fn all_records(database: &Database) -> Result<Vec<Record>> {
    let read = database.begin_read().map_err(failed("begin"))?;
    let table = read
        .open_table(CONTAINERS)
        .map_err(failed("open its table"))?;
    let mut records = Vec::new();
    for entry in table.iter().map_err(failed("list"))? {
        let (_, value) = entry.map_err(failed("read a record"))?;
        records.push(serde_json::from_slice(value.value()).map_err(|source| {
            EngineError::Json {
                what: "decode a container record",
                source,
            }
        })?);
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> Record {
        Record {
            id: id.into(),
            ..crate::record::tests::record()
        }
    }

    fn open(path: &Path) -> Result<Store> {
        Store::open(path, Path::new("/nonexistent"))
    }

    #[tokio::test]
    async fn records_survive_reopening_and_removal_forgets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.redb");
        {
            let store = open(&path).unwrap();
            store.put(|| record("a")).await.unwrap();
            store.put(|| record("b")).await.unwrap();
            store.remove("a").await.unwrap();
        }
        let found = open(&path).unwrap().all().unwrap();
        assert_eq!(
            found.iter().map(|r| r.id.as_str()).collect::<Vec<_>>(),
            ["b"]
        );
    }

    #[tokio::test]
    async fn a_store_goes_on_behind_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir.path().join("c.redb")).unwrap();
        store.put(|| record("a")).await.unwrap();
        let failing = |_: &Database| Err::<(), _>(EngineError::BadRequest("a full disk".into()));
        assert!(store.with(failing).is_err());
        store.put(|| record("b")).await.unwrap();
        assert_eq!(store.all().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn who_writes_last_writes_what_is_known_then() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir.path().join("c.redb")).unwrap();
        let shared = Arc::new(Mutex::new(record("a")));
        let latest = || {
            let shared = Arc::clone(&shared);
            move || shared.lock().unwrap().clone()
        };
        store.put(latest()).await.unwrap();
        let early = store.replace("a", latest());
        shared.lock().unwrap().name = "new".to_owned();
        store.replace("a", latest()).await.unwrap();
        early.await.unwrap();
        assert_eq!(store.all().unwrap()[0].name, "new");
        // A change that was under way does not bring back what is removed meanwhile.
        store.remove("a").await.unwrap();
        store.replace("a", latest()).await.unwrap();
        assert!(store.all().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_damaged_store_is_named_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = open(&path).unwrap();
        store.put(|| record("a")).await.unwrap();
        drop(store);
        let whole = std::fs::read(&path).unwrap();
        for damaged in [&whole[..3000], &b"something else"[..]] {
            std::fs::write(&path, damaged).unwrap();
            let error = open(&path).unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), damaged);
        }
    }

    #[test]
    fn a_store_is_not_made_in_the_place_of_a_lost_one() {
        let dir = tempfile::tempdir().unwrap();
        let (path, containers) = (dir.path().join("store"), dir.path().join("containers"));
        std::fs::create_dir_all(containers.join("abc")).unwrap();
        let refused = || {
            let error = Store::open(&path, &containers).unwrap_err();
            assert!(matches!(error, EngineError::StoreDamaged { .. }), "{error}");
        };
        refused();
        assert!(!path.exists());
        std::fs::write(&path, "").unwrap();
        refused();
        assert_eq!(std::fs::read(&path).unwrap(), b"");
        // Without containers there is nothing to lose.
        std::fs::remove_dir(containers.join("abc")).unwrap();
        Store::open(&path, &containers).unwrap();
    }

    #[test]
    fn a_newer_store_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.redb");
        {
            let database = Database::create(&path).unwrap();
            let write = database.begin_write().unwrap();
            write
                .open_table(META)
                .unwrap()
                .insert(SCHEMA_KEY, SCHEMA + 1)
                .unwrap();
            write.commit().unwrap();
        }
        let error = open(&path).unwrap_err();
        assert!(matches!(error, EngineError::StoreTooNew { .. }), "{error}");
    }
}

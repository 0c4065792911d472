//! Events of the volumes and networks that a container has while it runs.

use std::collections::HashMap;

use super::Container;
use crate::engine::Engine;
use crate::record::Record;
use crate::volumes::VolumeUse;

impl Engine {
    /// Tells that a container which starts has what it uses.
    pub(super) fn publish_taken(&self, container: &Container) {
        let record = container.record();
        for volume in &record.volumes {
            self.publish_volume_use("mount", &record, volume);
        }
        self.publish_ends("connect", &record);
    }

    /// Tells that a container which ended has it no more.
    pub(super) fn publish_given_back(&self, container: &Container) {
        let record = container.record();
        self.publish_ends("disconnect", &record);
        for volume in &record.volumes {
            self.publish_volume_use("unmount", &record, volume);
        }
    }

    fn publish_volume_use(&self, action: &str, record: &Record, volume: &VolumeUse) {
        let mut attributes = HashMap::from([("container".to_owned(), record.id.clone())]);
        if action == "mount" {
            attributes.extend([
                ("destination".to_owned(), volume.target.clone()),
                ("propagation".to_owned(), String::new()),
                ("read/write".to_owned(), (!volume.read_only).to_string()),
            ]);
        }
        let driver = self.volumes.driver_of(&volume.name);
        self.publish_volume(action, &volume.name, &driver, attributes);
    }

    fn publish_ends(&self, action: &str, record: &Record) {
        for end in &record.endpoints {
            let container = [("container", record.id.as_str())];
            self.publish_network(action, &end.network_id, &end.network_name, &container);
        }
    }
}

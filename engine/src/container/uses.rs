//! Events of the volumes and networks that a container has while it runs.

use std::collections::HashMap;

use super::Container;
use crate::api::Named;
use crate::engine::Engine;
use crate::network::DEFAULT;
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
        let container = Some(record.id.as_str());
        if record.networks.is_empty() && !super::joins(&record.host) {
            self.publish_network(action, Named::NONE, container);
        }
        for end in &record.endpoints {
            let network = self.networks.find(&end.network_id);
            let named = Named {
                id: &end.network_id,
                name: &end.network_name,
                driver: network.map_or(DEFAULT, |network| network.driver()),
            };
            self.publish_network(action, named, container);
        }
    }
}

//! Images: references, registries, the content store, layers to EROFS.

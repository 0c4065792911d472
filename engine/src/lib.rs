//! The engine behind the Docker API.

"""Settings: server.toml, the environment, the pair and the dataset's place, read and checked before they are used."""

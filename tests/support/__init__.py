"""What several suites use: clusters, servers, data."""

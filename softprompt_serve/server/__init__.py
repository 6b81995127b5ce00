"""The HTTP side: the admin API, a request's scope, residency and the service behind them."""

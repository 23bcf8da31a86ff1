//! The examples at the end of each command's help. A test parses all of them.

pub(super) const UNLOCKER: &str = "\
Examples:
  unlocker config > unlocker.toml              # all settings, with their defaults
  unlocker check --config unlocker.toml        # before the first start
  unlocker run --config unlocker.toml";

pub(super) const RUN: &str = "\
Examples:
  unlocker run --config /etc/unlocker/production.toml
  unlocker run --config production.toml --config this-site.toml --log-format json";

pub(super) const GATEWAY: &str = "\
Examples:
  unlocker gateway                             # for this machine alone: http://127.0.0.1:8080/v1/unlocks
  unlocker gateway --config /etc/unlocker/gateway.toml";

pub(super) const CONSOLE: &str = "\
Examples:
  unlocker console                             # for this machine alone: http://127.0.0.1:8090/
  unlocker console --config /etc/unlocker/console.toml";

pub(super) const CHECK: &str = "\
Examples:
  unlocker check --config /etc/unlocker/production.toml
  unlocker check --probe                       # while a worker runs: also sends two canaries
  unlocker check --role gateway --json";

pub(super) const STATUS: &str = "\
Examples:
  unlocker status
  unlocker status --ops http://10.0.0.7:9464 --ops http://10.0.0.8:9464
  unlocker status --json";

pub(super) const PUBLISH: &str = "\
Examples:
  unlocker publish --customer-id 191 --wait --timeout 60s
  unlocker publish --subscription-id 7001 --message-id order-5531
  unlocker publish --from customers.jsonl      # a JSON object per line; - is stdin";

pub(super) const HISTORY: &str = "\
Examples:
  unlocker history --customer-id 191
  unlocker history --status refused,abandoned --since 1h --json
  unlocker history --follow";

pub(super) const DEAD_LETTERS: &str = "\
Examples:
  unlocker dead-letters summary
  unlocker dead-letters list --reason http_404 --since 2h
  unlocker dead-letters replay --status abandoned";

pub(super) const SUMMARY: &str = "\
Examples:
  unlocker dead-letters summary
  unlocker dead-letters summary --since 24h --json";

pub(super) const LIST: &str = "\
Examples:
  unlocker dead-letters list --status refused --limit 20
  unlocker dead-letters list --reason http_404,timeout --since 2h
  unlocker dead-letters list --until 2026-11-23T09:00:00Z --json";

pub(super) const SHOW: &str = "\
Examples:
  unlocker dead-letters show order-5531        # the id of a request
  unlocker dead-letters show 1f0c9a27d1b4 --json --actor alice";

pub(super) const EXPORT: &str = "\
Examples:
  unlocker dead-letters export > dead-letters.jsonl
  unlocker dead-letters export --status invalid --since 24h > invalid.jsonl";

pub(super) const REPLAY: &str = "\
Examples:
  unlocker dead-letters replay --status abandoned --since 24h     # shows the plan
  unlocker dead-letters replay --confirm 3f9a1c --rate 10/s       # executes it
  unlocker dead-letters replay --id order-5531 --set customer_id=191   # corrects it";

pub(super) const DISCARD: &str = "\
Examples:
  unlocker dead-letters discard --reason http_404 --note 'the customers were deleted'
  unlocker dead-letters discard --confirm 3f9a1c";

pub(super) const SANDBOX: &str = "\
Examples:
  unlocker sandbox
  unlocker sandbox --latency 50ms --fail 503:0.1 --fail 429:0.01
  unlocker sandbox --locked-customers 191,192 --first 191=503,503";

pub(super) const DEV: &str = "\
Examples:
  unlocker dev --broker amqp://guest:guest@127.0.0.1:5672/%2f --prefix test
  unlocker dev --is-ready                      # for a health check: exit code 0 or 1";

pub(super) const SCHEMA: &str = "\
Examples:
  unlocker schema request > request.json
  unlocker schema outcome";

pub(super) const CONFIG: &str = "\
Examples:
  unlocker config | less
  unlocker config > unlocker.toml";

pub(super) const COMPLETIONS: &str = "\
Examples:
  unlocker completions bash > ~/.local/share/bash-completion/completions/unlocker
  unlocker completions zsh > ~/.zfunc/_unlocker
  unlocker completions fish > ~/.config/fish/completions/unlocker.fish";

pub(super) const MAN: &str = "\
Examples:
  unlocker man ~/.local/share/man/man1         # a page for each command
  unlocker man /usr/local/share/man/man1";

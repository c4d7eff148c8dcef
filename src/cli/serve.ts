/** `blockferry serve`: its flags and its page. */
import { Option, type Command } from 'commander';
import type { ConfigFlags } from '../control/config/config.ts';
import { LOG_LEVELS, NBD_ADDRESS_DEFAULT, TLS_MODES } from '../control/config/defaults.ts';

const HELP = `
ADDR is host:port or unix:PATH. Clients attach volumes by name, for example with
  nbd-client -N demo 127.0.0.1 10809 /dev/nbd0
  nbdfuse DIR nbd+unix:///demo?socket=PATH

An NBD address that other machines can reach needs --tls required, or --insecure, which says that the
network is trusted. What the node makes is open to its user and group only.

TLS for NBD clients: a certificate with its key, pre-shared keys (lines of user:hexkey), or both.
  --tls-certificate cert.pem --tls-key key.pem --tls-client-ca ca.pem --tls required

A configuration file (--config) is TOML with the same words; flags override it:
  name = "alpha"
  data = "/srv/blockferry"
  nbd = ["127.0.0.1:10809", "unix:/run/blockferry/nbd.sock"]
  control = "unix:/run/blockferry/control.sock"
  http = "127.0.0.1:9809"
  insecure = false
  log_level = "info"
and with tables for rights of sockets, limits, TLS and each export: docs/reference/configuration.md.

The node logs JSON lines on stderr. SIGTERM and Ctrl-C stop it cleanly; SIGHUP reloads, like
blockferry reload. Listening sockets of systemd (LISTEN_FDS) take the place of the default addresses.`;

/** Gathers the values of an option that may be repeated. */
const collect = (value: string, before: readonly string[] | undefined): string[] => [
  ...(before ?? []),
  value,
];

export function addServeVerb(program: Command): void {
  program
    .command('serve')
    .summary('run a node')
    .description('Run a node: it serves the volumes in its data directory until it is stopped.')
    .option('--config <file>', 'read settings from a TOML file')
    .option('--name <name>', 'name of the node (default: name of the host)')
    .option(
      '--data <dir>',
      'where volumes live (default: /var/lib/blockferry for root, else ~/.local/share/blockferry)',
    )
    .option(
      '--nbd <addr>',
      `serve NBD here; may be repeated (default: ${NBD_ADDRESS_DEFAULT} and unix:DATA/nbd.sock)`,
      collect,
    )
    .option('--control <addr>', 'take commands here (default: unix:DATA/control.sock)')
    .option('--http <addr>', 'show /metrics for Prometheus here (default: nowhere)')
    .option('--insecure', 'allow addresses outside loopback although TLS is not required there')
    .addOption(
      new Option(
        '--tls <mode>',
        'whether NBD clients encrypt (default: allowed with a certificate or keys, else off)',
      ).choices(TLS_MODES),
    )
    .option('--tls-certificate <file>', 'certificate of the node, with those between it and its CA')
    .option('--tls-key <file>', 'key of the certificate')
    .option('--tls-client-ca <file>', 'clients show certificates of this CA')
    .option('--tls-psk <file>', 'pre-shared keys of clients: lines of user:hexkey')
    .option(
      '--staging-disk <size>',
      'keep what mirrors lack, and memory has no room for, in a file of this size for each volume',
    )
    .option('--no-list', 'do not tell clients the names of the exports')
    .addOption(
      new Option('--log-level <level>', 'least severity that is logged (default: info)').choices(
        LOG_LEVELS,
      ),
    )
    .addHelpText('after', HELP)
    .action(serve);
}

/** Loaded only now: the other verbs need none of what a node is made of, and start faster without it. */
async function serve(flags: ConfigFlags): Promise<void> {
  const { runNode } = await import('./run-node.ts');
  await runNode(flags);
}

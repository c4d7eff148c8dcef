/**
 * The programs that judge this one, each with its Debian package and a command that proves that it is
 * there and can do what the tests ask of it.
 */
export interface Tool {
  readonly name: string;
  readonly package: string;
  /** Run through sh; exit 0 proves the tool. Prints nothing of interest, changes nothing. */
  readonly proof: string;
}

const tool = (name: string, debianPackage: string, proof: string): Tool => ({
  name,
  package: debianPackage,
  proof,
});

export const TOOLS: readonly Tool[] = [
  tool('fio', 'fio', 'fio --enghelp=nbd'),
  tool(
    'nbdkit',
    'nbdkit',
    'nbdkit --dump-plugin file && nbdkit --filter=error --dump-plugin file && nbdkit --dump-plugin nbd',
  ),
  tool('nbd-client', 'nbd-client', 'nbd-client --version'),
  tool('nbd-server', 'nbd-server', 'command -v nbd-server'),
  tool('qemu-nbd', 'qemu-utils', 'qemu-nbd --version'),
  tool('qemu-img', 'qemu-utils', 'qemu-img --version'),
  tool('qemu-io', 'qemu-utils', 'qemu-io --version'),
  tool('qemu-storage-daemon', 'qemu-system-common', 'qemu-storage-daemon --version'),
  tool('nbdinfo', 'libnbd-bin', 'nbdinfo --version'),
  tool('nbdcopy', 'libnbd-bin', 'nbdcopy --version'),
  tool('nbdfuse', 'libnbd-bin', 'nbdfuse --version'),
  tool('python3-libnbd', 'python3-libnbd', '/usr/bin/python3 -c "import nbd"'),
  tool(
    'linux.uml',
    'user-mode-linux',
    'command -v linux.uml && ls /usr/lib/uml/modules/*/kernel/drivers/block/nbd.ko',
  ),
  tool('uml_mconsole', 'uml-utilities', 'command -v uml_mconsole'),
  tool('insmod', 'kmod', 'command -v insmod'),
  tool('ip', 'iproute2', 'ip -V'),
  tool('openssl', 'openssl', 'openssl version'),
  tool('psktool', 'gnutls-bin', 'psktool --version'),
  tool('certtool', 'gnutls-bin', 'certtool --version'),
  tool('systemd-analyze', 'systemd', 'systemd-analyze --version'),
  tool('systemd-socket-activate', 'systemd', 'systemd-socket-activate --version'),
  tool('mkfs.ext4', 'e2fsprogs', 'mkfs.ext4 -V'),
  tool('e2fsck', 'e2fsprogs', 'e2fsck -V'),
  tool('mkfs.xfs', 'xfsprogs', 'mkfs.xfs -V'),
  tool('xfs_repair', 'xfsprogs', 'xfs_repair -V'),
  tool('fusermount3', 'fuse3', 'fusermount3 --version'),
  tool('losetup', 'mount', 'losetup --version'),
  tool('fstrim', 'util-linux', 'fstrim --version'),
  tool('fallocate', 'util-linux', 'fallocate --version'),
  tool('setpriv', 'util-linux', 'setpriv --version'),
  tool('sqlite3', 'sqlite3', 'sqlite3 --version'),
];

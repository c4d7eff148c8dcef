/** How long the event loop was held up in one go while something ran. */

/**
 * Runs `action` and returns the longest time between two turns of the loop. Where the machine gave the processor to
 * others, what this process itself consumed counts.
 */
export async function longestGap(action: () => Promise<unknown>): Promise<number> {
  let longestMs = 0;
  let wall = performance.now();
  let used = process.cpuUsage();
  let running = true;
  const look = (): void => {
    const now = performance.now();
    const cpu = process.cpuUsage(used);
    longestMs = Math.max(longestMs, Math.min(now - wall, (cpu.user + cpu.system) / 1000));
    wall = now;
    used = process.cpuUsage();
    if (running) setImmediate(look);
  };
  setImmediate(look);
  try {
    await action();
  } finally {
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
    running = false;
    look();
  }
  return longestMs;
}

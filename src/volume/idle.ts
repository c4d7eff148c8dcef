/** Steps that wait until something is over. */
export class IdleWaiters {
  private waiters: { ready: () => boolean; resolve: () => void }[] = [];

  /** Resolves when `ready` says so; it is asked at once, and at each `notice`. */
  until(ready: () => boolean): Promise<void> {
    if (ready()) return Promise.resolve();
    return new Promise((resolve) => this.waiters.push({ ready, resolve }));
  }

  /** Something ended. */
  notice(): void {
    if (this.waiters.length === 0) return;
    const { waiters } = this;
    this.waiters = waiters.filter((waiter) => !waiter.ready());
    for (const waiter of waiters) {
      if (!this.waiters.includes(waiter)) waiter.resolve();
    }
  }
}

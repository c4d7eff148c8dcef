/** Runs tasks side by side, at most so many; the first failure ends the window. */
export class TaskWindow {
  private readonly active = new Set<Promise<void>>();
  private readonly limit: number;
  private failure: { readonly thrown: unknown } | null = null;

  constructor(limit: number) {
    this.limit = limit;
  }

  /** Starts the task when there is room. Throws the first failure of an earlier one instead. */
  async add(task: () => Promise<void>): Promise<void> {
    while (this.active.size >= this.limit) await Promise.race(this.active);
    this.check();
    const running = this.guarded(task).finally(() => {
      this.active.delete(running);
    });
    this.active.add(running);
  }

  /** Waits for all tasks, then throws the first failure, if there was one. */
  async drain(): Promise<void> {
    await Promise.all(this.active);
    this.check();
  }

  private async guarded(task: () => Promise<void>): Promise<void> {
    try {
      await task();
    } catch (thrown) {
      this.failure ??= { thrown };
    }
  }

  private check(): void {
    if (this.failure !== null) throw this.failure.thrown;
  }
}

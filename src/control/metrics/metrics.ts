/**
 * The metrics of a node in the text form of Prometheus. They are gathered when somebody asks: nothing is counted twice,
 * and nothing is spent while nobody does.
 */
import { Counter, Gauge, Registry } from 'prom-client';
import { METRICS, type Measured, type Metric } from './metric-table.ts';

export class Metrics {
  private readonly registry = new Registry();
  private measured: Measured | null = null;

  constructor() {
    for (const metric of METRICS) this.register(metric);
  }

  get contentType(): string {
    return this.registry.contentType;
  }

  /** The whole page. */
  text(measured: Measured): Promise<string> {
    // Read by the collectors in this turn: a page is of one moment.
    this.measured = measured;
    return this.registry.metrics();
  }

  private register({ name, help, type, labels, samples }: Metric): void {
    const collected = (): { labels: Record<string, string>; value: number }[] => {
      if (this.measured === null) return [];
      return samples(this.measured).flatMap(({ labels: of, value }) =>
        value === null ? [] : [{ labels: { ...of }, value }],
      );
    };
    const options = { name, help, labelNames: labels, registers: [] };
    this.registry.registerMetric(
      type === 'counter'
        ? new Counter({
            ...options,
            collect(): void {
              this.reset();
              for (const sample of collected()) this.inc(sample.labels, sample.value);
            },
          })
        : new Gauge({
            ...options,
            collect(): void {
              this.reset();
              // Without labels there would be a zero for what is not known.
              if (labels.length === 0) this.remove();
              for (const sample of collected()) this.set(sample.labels, sample.value);
            },
          }),
    );
  }
}

/**
 * What a node shows over HTTP to those who only look: `GET /metrics` (docs/operating/metrics.md). It takes no commands.
 * Loaded only where an address for it is configured.
 */
import { fastify, type FastifyInstance } from 'fastify';
import { HTTP_CONNECTIONS_MAX } from '../../io/limits.ts';
import type { Measured } from '../metrics/metric-table.ts';
import { Metrics } from '../metrics/metrics.ts';

/** The server, ready to listen. Requests wait for `started`; it rejects when the start failed. */
export function createHttp(options: {
  readonly measure: () => Measured;
  readonly started: Promise<void>;
}): FastifyInstance {
  const app = fastify({ logger: false, bodyLimit: 1, forceCloseConnections: true });
  app.server.maxConnections = HTTP_CONNECTIONS_MAX;
  app.addHook('onRequest', () => options.started);
  const metrics = new Metrics();
  app.get('/metrics', async (_request, reply) => {
    const text = await metrics.text(options.measure());
    return reply.type(metrics.contentType).send(text);
  });
  app.setNotFoundHandler((_request, reply) =>
    reply.code(404).type('text/plain; charset=utf-8').send('there is only /metrics\n'),
  );
  app.setErrorHandler((_error, _request, reply) =>
    reply.code(503).type('text/plain; charset=utf-8').send('the node is not ready\n'),
  );
  return app;
}

{%- from 'weavers/map.jinja' import weavers with context %}

{%- if weavers.package or weavers.package_file %}
weavers-package:
  pkg.installed:
    {%- if weavers.package_file %}
    - sources:
      - weavers: {{ weavers.package_file }}
    {%- else %}
    - name: {{ weavers.package }}
    {%- endif %}
    - require_in:
      - weavers: weavers-config
{%- endif %}

weavers-config:
  weavers.config:
    - name: {{ weavers.config_file }}
    - config: {{ weavers.config | json }}
    - timeout: {{ weavers.ready_timeout }}

{%- if weavers.docker_socket %}
weavers-docker-socket:
  service.enabled:
    - name: weavers-docker.socket
    - require:
      - weavers: weavers-config
{%- endif %}

# No watch on the file: what the daemon can adopt it has adopted, and the state itself restarts it for the rest.
weavers-service:
  service.running:
    - name: weavers
    - enable: True
    - require:
      - weavers: weavers-config

weavers-ready:
  weavers.ready:
    - timeout: {{ weavers.ready_timeout }}
    - require:
      - service: weavers-service

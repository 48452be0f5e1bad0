{%- from 'weavers/map.jinja' import weavers with context %}

# Packets of containers go on flowing. To give the ranges of the host away, first: salt HOST cmd.run 'weavers drain && weavers reset'
weavers-service:
  service.dead:
    - name: weavers
    - enable: False

weavers-package:
  pkg.removed:
    - name: weavers
    - require:
      - service: weavers-service

# NATS, gateway, scheduler and autoscaler on one node; workers are launched by the autoscaler.
#
#   nomad job run -var-file=passwords.hcl stoker.nomad.hcl

variable "datacenters" {
  type        = list(string)
  default     = ["*"]
  description = "Where it may run."
}
variable "image" {
  type        = string
  default     = "stoker"
  description = "Image with the services: target `services` of deploy/Dockerfile."
}
variable "nats_image" {
  type        = string
  default     = "stoker-nats"
  description = "Image with NATS: target `nats` of deploy/Dockerfile."
}
variable "config" {
  type        = string
  description = "Folder on the node with stoker.yaml, profiles and models."
}
variable "nats_volume" {
  type        = string
  default     = "stoker-nats"
  description = "Host volume of the node's client configuration, on a disk that stays."
}
variable "port" {
  type        = number
  default     = 8000
  description = "Port of the gateway."
}
variable "passwords" {
  type        = map(string)
  description = "gateway, scheduler, worker, autoscaler, client, operator: of the NATS users."
}
variable "nomad_token" {
  type        = string
  default     = ""
  description = "Token with which the autoscaler submits jobs."
}

job "stoker" {
  type        = "service"
  datacenters = var.datacenters

  group "stoker" {
    count = 1

    volume "nats" { # jobs, results and keys: kept when the job is placed anew on this node
      type      = "host"
      source    = var.nats_volume
      read_only = false
    }

    task "nats" {
      driver = "docker"
      volume_mount {
        volume      = "nats"
        destination = "/data"
      }
      lifecycle {
        hook    = "prestart"
        sidecar = true
      }
      config {
        image        = var.nats_image
        network_mode = "host"
      }
      env {
        NATS_LISTEN          = "0.0.0.0:4222"
        NATS_STORE           = "/data"
        GATEWAY_PASSWORD     = jsonencode(var.passwords["gateway"])
        SCHEDULER_PASSWORD   = jsonencode(var.passwords["scheduler"])
        WORKER_PASSWORD      = jsonencode(var.passwords["worker"])
        AUTOSCALER_PASSWORD  = jsonencode(var.passwords["autoscaler"])
        CLIENT_PASSWORD      = jsonencode(var.passwords["client"])
        OPERATOR_PASSWORD    = jsonencode(var.passwords["operator"])
      }
    }

    task "init" { # makes the streams, and upgrades them
      driver = "docker"
      lifecycle {
        hook    = "poststart"
        sidecar = false
      }
      config {
        image        = var.image
        args         = ["install-streams"]
        network_mode = "host"
      }
      env {
        STOKER_NATS          = "nats://127.0.0.1:4222"
        STOKER_NATS_USER     = "operator"
        STOKER_NATS_PASSWORD = var.passwords["operator"]
      }
    }

    task "gateway" {
      driver = "docker"
      config {
        image        = var.image
        args         = ["gateway", "--host", "0.0.0.0", "--port", "${var.port}", "--config", "/etc/stoker", "--publish"]
        network_mode = "host"
        volumes      = ["${var.config}:/etc/stoker:ro"]
      }
      env {
        STOKER_NATS          = "nats://127.0.0.1:4222"
        STOKER_NATS_USER     = "gateway"
        STOKER_NATS_PASSWORD = var.passwords["gateway"]
      }
    }

    task "scheduler" {
      driver = "docker"
      config {
        image        = var.image
        args         = ["scheduler"]
        network_mode = "host"
      }
      env {
        STOKER_NATS          = "nats://127.0.0.1:4222"
        STOKER_NATS_USER     = "scheduler"
        STOKER_NATS_PASSWORD = var.passwords["scheduler"]
      }
    }

    task "autoscaler" {
      driver = "docker"
      config {
        image        = var.image
        args         = ["autoscaler", "--data", "/alloc/data"]
        network_mode = "host"
      }
      env {
        STOKER_NATS          = "nats://127.0.0.1:4222"
        STOKER_NATS_USER     = "autoscaler"
        STOKER_NATS_PASSWORD = var.passwords["autoscaler"]
        STOKER_WORKER_NATS_USER     = "worker"
        STOKER_WORKER_NATS_PASSWORD = var.passwords["worker"]
        STOKER_WORKER_NATS   = "nats://${attr.unique.network.ip-address}:4222"
        NOMAD_ADDR           = "http://127.0.0.1:4646"
        NOMAD_TOKEN          = var.nomad_token
      }
    }
  }
}
